"""Adapters of our own, hosted by PEFT: bottlenecks, prefixes, gated LoRA, their unions, and AdapterFusion.

`parts` says what an adapter is made of, `layouts` where it acts in each architecture, `modules` holds the formulas,
`layers` puts them into a model's layers, `tuner` is what PEFT calls, `drop` skips adapters in lower layers.
"""
