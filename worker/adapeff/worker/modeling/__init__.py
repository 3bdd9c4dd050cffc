"""Loading encoders and tokenizers, and counting their parameters."""
