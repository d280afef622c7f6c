-- The access token that a session or a run was asked for with: both end when it is withdrawn.
-- No foreign key: the record outlives the token. NULL: from before this was kept.
ALTER TABLE sessions ADD COLUMN token TEXT;
ALTER TABLE runs ADD COLUMN token TEXT;
