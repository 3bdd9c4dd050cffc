"""The queue: messages that wake workers, and the reconciler that resends lost ones."""
