"""What can be plugged in: the contracts, the catalog that finds plug-ins, and how a user writes them."""
