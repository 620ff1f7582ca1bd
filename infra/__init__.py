"""The outside world: object store, tables, MLflow, reports. See README.md."""
