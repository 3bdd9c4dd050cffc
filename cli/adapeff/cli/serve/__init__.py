"""The report and the queue in a browser, live."""
