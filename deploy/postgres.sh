#!/bin/sh
# Makes the roles and databases of MLflow and Prefect when the server's files are made (compose.yaml).
set -eu
role() { # role, file of its password
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username alpro --dbname postgres <<SQL
CREATE ROLE $1 LOGIN PASSWORD '$(cat "/run/secrets/$2")';
SQL
}
database() { # database, its owner
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username alpro --dbname postgres <<SQL
CREATE DATABASE $1 OWNER $2;
REVOKE CONNECT ON DATABASE $1 FROM PUBLIC;
SQL
}
role mlflow postgres_mlflow
role prefect postgres_prefect
database mlflow mlflow
database mlflow_auth mlflow
database prefect prefect
