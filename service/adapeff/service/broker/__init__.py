"""The queue: messages that wake workers, and the reconciler that repairs what was lost."""
