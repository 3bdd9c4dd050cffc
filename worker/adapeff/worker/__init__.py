"""The part of adapeff that trains and measures. Torch is imported only when it runs."""
