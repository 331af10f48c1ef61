-- A payload that was erased: details, error and salt are NULL, and this is the run that did it, which is in the log itself.

ALTER TABLE audit_leaves ADD COLUMN erased_by TEXT;
