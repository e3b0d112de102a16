"""The coordinator's side: rounds, aggregation, and the store of a run."""
