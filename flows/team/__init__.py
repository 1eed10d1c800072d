"""Servers for a team on one machine: PostgreSQL, S3 (SeaweedFS), MLflow and Prefect with a worker (`make team`)."""
