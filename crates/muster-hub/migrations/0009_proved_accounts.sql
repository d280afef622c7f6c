-- When it was proved that an account's e-mail is its person's: by a mailed link, a provider of single sign-on, or the operator's word.
-- NULL: somebody made the account by a link that its inviter was shown.
ALTER TABLE accounts ADD COLUMN verified_at INTEGER;

-- Until now an account came either by the operator's word or by the link of an invitation, of which nothing says who opened it.
UPDATE accounts SET verified_at = created_at
    WHERE kind = 'person' AND NOT EXISTS (
        SELECT 1 FROM invitations i WHERE i.email = accounts.email AND i.accepted_at IS NOT NULL AND i.accepted_at <= accounts.created_at + 60000);
