"""Getting a device ready: building its programs, pushing them over SSH or adb, starting and stopping its server."""
