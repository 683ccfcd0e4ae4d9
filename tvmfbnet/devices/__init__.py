"""Where code runs: target definitions, the tracker, device servers, remote jobs with a deadline, robust timing."""
