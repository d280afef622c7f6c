-- What a device told last of the policy that its owner gave it. For people to read: the hub decides nothing by it.
CREATE TABLE device_policies (
    uid      TEXT PRIMARY KEY REFERENCES devices (uid) ON DELETE CASCADE,
    text     TEXT,             -- the file; NULL where there is none or it cannot be read
    code     TEXT,             -- why everything is refused; NULL where it is not
    fault    TEXT,             -- the same as a sentence
    own_user INTEGER NOT NULL CHECK (own_user IN (0, 1)),
    t        INTEGER NOT NULL, -- by the device's clock
    told_at  INTEGER NOT NULL  -- by the hub's clock
) STRICT, WITHOUT ROWID;
