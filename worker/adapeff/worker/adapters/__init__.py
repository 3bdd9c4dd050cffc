"""adapeff's own adapters, hosted by PEFT: bottlenecks, prefixes, gated LoRA, their unions, and AdapterFusion.

`parts` defines what an adapter consists of, `layouts` where it acts in each architecture, and `modules` its formulas.
`sites`, `prefixed_attention` and `layers` wrap a model's modules, `tuner` is what PEFT calls, and `drop` skips the
adapters of lower layers. `prompts` and `precision` adapt PEFT's own tuners to encoders.
"""
