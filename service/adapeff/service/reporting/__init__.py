"""From stored measurements to the tables of a report."""
