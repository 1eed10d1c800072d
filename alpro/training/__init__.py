"""The four trainings: engine, optimizer, schedule, resume state, log, record, and the tasks that they share."""
