"""Models in use: found in the registry or on disk, followed, batched and limited, for the web page and the HTTP service."""
