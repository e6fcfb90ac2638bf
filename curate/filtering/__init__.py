"""Which samples are out before anything is compared: conditions on scores, lists of uids."""
