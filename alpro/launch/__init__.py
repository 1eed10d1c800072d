"""`alpro launch`: start, supervise and end the processes of a distributed run."""
