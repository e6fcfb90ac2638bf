"""The rows among which methods choose: ranked bucket by bucket, read again from a finished run, asked about one by one."""
