//! What the bodies look like: `field:kind`, with `?` where it may be absent or null. The tests hold it to the types.

/// Texts with few values.
pub(super) const ENUMS: &[(&str, &[&str])] = &[
    ("Admission", &["pending", "admitted", "rejected", "revoked"]),
    ("AdmitRule", &["auto", "manual"]),
    ("BulkAction", &["admit", "reject", "revoke", "assign", "unassign", "edit", "delete"]),
    ("EnrolOutcome", &["pending", "replacement", "admitted", "rejected"]),
    ("LedgerEntry", &["charge", "top_up", "correction"]),
    ("LimitName", &["devices", "users", "projects", "sessions", "runs", "storage"]),
    ("LimitScope", &["own", "hub"]),
    ("FieldKind", &["text", "number", "choice", "date", "person"]),
    ("MailState", &["none", "queued", "sent", "failed"]),
    ("OrgRole", &["viewer", "member", "owner"]),
    ("PresenceState", &["online", "offline", "never"]),
    ("ProjectRole", &["view", "connect", "operate", "maintain", "admin"]),
    ("RunState", &["waiting", "running", "done", "failed", "cancelled", "timed_out", "expired", "refused", "lost"]),
    ("SessionState", &["opening", "open", "interrupted", "ended"]),
    ("TokenScope", &["read", "reach", "full"]),
    ("Visibility", &["private", "internal"]),
];

/// Objects.
pub(super) const SCHEMAS: &[(&str, &str)] = &[
    (
        "AccessToken",
        "id:string token?:string name:string scope:TokenScope org?:string project?:string created_at:millis expires_at:millis \
         used_at?:millis",
    ),
    ("AccessTokenCreate", "name:string expires_days?:int scope?:TokenScope org?:string project?:string"),
    ("Assigned", "added:int removed:int"),
    ("AccountClose", "email:string password?:string"),
    ("AuditEvent", "id:int t:millis actor:string action:string target:string from?:string result:string details:any"),
    ("Collaborator", "email:string name:string projects:[RoleIn] teams:[string]"),
    (
        "BulkRequest",
        "action:BulkAction filter?:string all?:bool devices?:[string] expect?:int dry_run?:bool reason?:string projects?:[string] fields?:any \
         add_labels?:[string] remove_labels?:[string]",
    ),
    ("BulkResult", "matched:int changed:int dry_run:bool devices:[string]"),
    (
        "Device",
        "id:string uid:string name:string admission:Admission presence:PresenceState why:string presence_since?:millis last_seen?:millis \
         projects:[string] facts:any usage?:Sample pairing_code?:string replacement?:string agent?:string sessions?:int spooled?:int \
         certificate_expires_at?:millis created_at:millis manual:bool labels:[string] fields:any missing:[string]",
    ),
    ("DeviceAdd", "id:string name?:string fields?:any labels?:[string] projects?:[string]"),
    ("DeviceDecision", "reason?:string"),
    (
        "DeviceEdit",
        "name?:string add_projects?:[string] remove_projects?:[string] fields?:any add_labels?:[string] remove_labels?:[string]",
    ),
    ("DevicePage", "items:[Device] next?:string total:int"),
    (
        "DeviceLogin",
        "device_code:string user_code:string verification_uri:string verification_uri_complete:string expires_in:int interval:int",
    ),
    ("DeviceLoginPoll", "device_code:string"),
    ("DeviceLoginStart", "token_name?:string"),
    ("DevicePolicy", "text?:string code?:string fault?:string own_user:bool t:millis told_at:millis"),
    ("DeviceReplace", "pairing_code?:string"),
    ("DeviceSelf", "uid:string org:string name:string admission:Admission presence:PresenceState why:string now:millis"),
    ("EnrolRequest", "token:string serial:string csr:string facts:any"),
    ("EnrolState", "request:string pairing_code:string org:string state:EnrolOutcome why:string now:millis identity?:Identity"),
    (
        "EnrolmentToken",
        "id:string token?:string project?:string uses?:int used:int admit:AdmitRule serials?:[string] note?:string created_by:string \
         created_at:millis expires_at:millis revoked_at?:millis",
    ),
    ("EnrolmentTokenCreate", "project?:string uses?:int expires_s?:int admit?:AdmitRule serials?:[string] note?:string"),
    ("Billing", "balance:string spent:string uncharged:string rates:[Rate] projects:[Spent]"),
    ("CreditAdd", "credits:string correction?:bool note?:string key?:string"),
    (
        "LedgerLine",
        "id:int t:millis entry:LedgerEntry credits:string day?:string project?:string unit?:string amount?:int rate?:string \
         actor:string note?:string",
    ),
    ("Limit", "name:LimitName most?:int used:int hub?:int hub_override:bool own?:int"),
    ("LimitEdit", "name:LimitName most?:int"),
    ("Limits", "org:string items:[Limit]"),
    ("LimitsEdit", "scope?:LimitScope limits:[LimitEdit]"),
    ("Rate", "unit:string credits:string since:millis"),
    ("Spent", "project?:string credits:string uncharged:string"),
    ("Usage", "from:string to:string items:[UsageDay] total:Used"),
    ("UsageDay", "day:string project?:string device?:string device_name?:string used:Used"),
    (
        "Used",
        "active_devices:int session_ms:int to_device:int to_client:int runs:int runs_peak:int cpu_us:int memory_kib_ms:int \
         storage_byte_minutes:int members:int collaborators:int service_accounts:int",
    ),
    ("Field", "key:string title:string kind:FieldKind choices:[string] required:bool description:string created_at:millis"),
    ("FieldCreate", "key:string title?:string kind:FieldKind choices?:[string] required?:bool description?:string"),
    ("FieldEdit", "title?:string choices?:[string] required?:bool description?:string"),
    ("HubInfo", "service:string version:string now:millis pin:string mqtt:MqttEndpoint"),
    ("Identity", "uid:string org:string name:string certificate:string ca:string mqtt:MqttEndpoint"),
    ("ImportMistake", "line:int column?:string message:string"),
    ("ImportResult", "lines:int created:int updated:int unchanged:int dry_run:bool mistakes:[ImportMistake]"),
    (
        "Invitation",
        "id:string link?:string email:string role?:OrgRole project?:string project_role?:ProjectRole invited_by:string created_at:millis \
         expires_at:millis mail:MailState mail_error?:string",
    ),
    ("InvitationAccept", "token:string name?:string password?:string token_name?:string"),
    ("InvitationAccepted", "org:string role?:OrgRole project?:string project_role?:ProjectRole email:string token?:string"),
    ("InvitationCreate", "email:string role?:OrgRole project?:string project_role?:ProjectRole"),
    ("InvitationLook", "token:string"),
    (
        "InvitationLooked",
        "org:string org_name:string email:string role?:OrgRole project?:string project_name?:string project_role?:ProjectRole \
         invited_by:string expires_at:millis has_account:bool password_login:bool",
    ),
    ("LoginCode", "code:string verifier:string redirect_uri:string token_name?:string"),
    ("LoginMethods", "password:bool oidc?:OidcMethod"),
    ("LoginRequest", "email:string password:string token_name?:string"),
    ("Me", "email:string name:string hub_owner:bool has_password:bool orgs:[Org]"),
    ("MeEdit", "name?:string"),
    ("Member", "email:string name:string role:OrgRole since:millis"),
    ("MemberPut", "role:OrgRole"),
    ("MqttEndpoint", "url:string websocket?:string"),
    (
        "Org",
        "id:string name:string full_name?:string description?:string location?:string website?:string logo?:string role?:OrgRole \
         created_at:millis",
    ),
    ("OidcMethod", "name:string issuer:string"),
    ("OrgCreate", "id:string name?:string full_name?:string description?:string location?:string website?:string"),
    ("OrgEdit", "name?:string full_name?:string description?:string location?:string website?:string"),
    ("Participant", "email:string name:string role:ProjectRole own?:ProjectRole teams:[string]"),
    ("ParticipantPut", "role:ProjectRole"),
    ("PasswordPut", "old:string new:string end_other_tokens?:bool"),
    ("PresenceChange", "t:millis presence:PresenceState reason:string"),
    ("Problem", "code:string status:int detail:string request?:string retry_in?:int"),
    (
        "Project",
        "id:string name:string description?:string visibility:Visibility role:ProjectRole devices:int online:int sessions:int runs:int members:int \
         created_at:millis archived_at?:millis",
    ),
    ("ProjectCreate", "id:string name?:string description?:string visibility?:Visibility"),
    ("ProjectDevices", "add?:[string] remove?:[string]"),
    ("ProjectEdit", "name?:string description?:string visibility?:Visibility"),
    ("ProjectTeam", "id:string name:string role:ProjectRole members:int since:millis"),
    ("ProjectTeamPut", "role:ProjectRole"),
    ("RenewRequest", "csr:string"),
    ("RoleIn", "project:string role:ProjectRole"),
    (
        "Run",
        "id:string device:string device_name:string user:string project:string command:any run_as?:string cwd?:string env:[string] \
         timeout_s:int output_max:int state:RunState why:string created_at:millis expires_at:millis started_at?:millis ended_at?:millis \
         cancelled_by?:string exit_code?:int signal?:string code?:string stdout:int stderr:int dropped:int cpu_us:int mem_byte_ms:int \
         mem_peak:int",
    ),
    ("RunCreate", "command:any project?:string run_as?:string cwd?:string env?:any timeout_s?:int output_max?:int wait_s?:int"),
    ("Sample", "t:millis boot:string seq:int values:numbers"),
    (
        "Session",
        "id:string device:string device_name:string user:string project:string want?:string reason?:string state:SessionState \
         created_at:millis opened_at?:millis ended_at?:millis end_reason?:string to_device:int to_client:int",
    ),
    (
        "ServiceAccount",
        "name:string email:string description?:string role?:OrgRole tokens:int used_at?:millis created_by:string created_at:millis",
    ),
    ("ServiceAccountCreate", "name:string role?:OrgRole description?:string project?:string project_role?:ProjectRole"),
    ("SessionCreate", "project?:string want?:string reason?:string"),
    (
        "SessionTicket",
        "session:string relay:string path:string ticket:string device:string device_name:string project:string project_chosen:bool",
    ),
    (
        "Team",
        "id:string name:string description?:string avatar?:string members:int people?:[TeamMember] projects:[RoleIn] created_at:millis",
    ),
    ("TeamCreate", "id:string name?:string description?:string"),
    ("TeamEdit", "name?:string description?:string"),
    ("TeamMember", "email:string name:string role?:OrgRole since:millis"),
    ("View", "name:string shared:bool filter:string sort:string columns:[string] changed_by:string changed_at:millis"),
    ("ViewCreate", "name:string shared?:bool filter?:string sort?:string columns?:[string]"),
    ("ViewEdit", "name?:string filter?:string sort?:string columns?:[string]"),
    ("WatchRequest", "seconds:int"),
];

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use muster_proto::{api, problem};
    use serde::de::value::Error;
    use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

    use super::*;

    /// A deserializer that only looks which fields, or which variants, a type asks for.
    struct Names<'a>(&'a Cell<&'static [&'static str]>);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("not a struct"))
        }
        fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], _: V) -> Result<V::Value, Error> {
            self.0.set(fields);
            Err(Error::custom("seen"))
        }
        fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, variants: &'static [&'static str], _: V) -> Result<V::Value, Error> {
            self.0.set(variants);
            Err(Error::custom("seen"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map identifier ignored_any
        }
    }

    fn names_of<T: for<'de> Deserialize<'de>>() -> BTreeSet<&'static str> {
        let names = Cell::new(&[][..]);
        assert!(T::deserialize(Names(&names)).is_err());
        names.get().iter().copied().collect()
    }

    macro_rules! types {
        ($($name:ident)*) => { vec![$((stringify!($name), names_of::<api::$name>())),*] };
    }

    #[test]
    fn every_body_has_exactly_the_fields_of_its_type() {
        let mut types = types![
            BulkRequest BulkResult DeviceAdd DevicePage DevicePolicy Field FieldCreate FieldEdit ImportMistake ImportResult View ViewCreate ViewEdit
            AccessToken AccessTokenCreate AccountClose DeviceLogin DeviceLoginPoll DeviceLoginStart LoginCode LoginMethods MeEdit OidcMethod PasswordPut ServiceAccount ServiceAccountCreate Assigned AuditEvent Collaborator Device DeviceDecision DeviceEdit DeviceSelf EnrolRequest EnrolState EnrolmentToken
            EnrolmentTokenCreate HubInfo Identity Invitation InvitationAccept InvitationAccepted InvitationCreate
            InvitationLook InvitationLooked LoginRequest Me Member MemberPut MqttEndpoint Org OrgCreate OrgEdit Participant
            ParticipantPut PresenceChange Project ProjectCreate ProjectDevices ProjectEdit ProjectTeam ProjectTeamPut RenewRequest RoleIn
            Billing CreditAdd LedgerLine Limit LimitEdit Limits LimitsEdit Rate Spent Usage UsageDay Used
            Run RunCreate Sample Session SessionCreate SessionTicket Team TeamCreate TeamEdit TeamMember WatchRequest
        ];
        types.push(("Problem", names_of::<problem::Problem>()));
        types.push(("DeviceReplace", names_of::<crate::api::Replace>()));
        assert_eq!(types.len(), SCHEMAS.len(), "a body without a type, or a type without a body");
        for (name, fields) in types {
            let told = SCHEMAS.iter().find(|(schema, _)| *schema == name).unwrap_or_else(|| panic!("{name} is not described")).1;
            let told: BTreeSet<&str> =
                told.split_whitespace().filter_map(|field| field.split_once(':')).map(|(field, _)| field.trim_end_matches('?')).collect();
            assert_eq!(told, fields, "{name}");
        }
    }

    #[test]
    fn every_choice_has_exactly_the_values_of_its_type() {
        let types = types![BulkAction FieldKind Admission AdmitRule EnrolOutcome LedgerEntry LimitName LimitScope MailState OrgRole PresenceState ProjectRole RunState SessionState TokenScope Visibility];
        assert_eq!(types.len(), ENUMS.len());
        for (name, variants) in types {
            let told = ENUMS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name} is not described")).1;
            assert_eq!(told.iter().copied().collect::<BTreeSet<_>>(), variants, "{name}");
        }
    }
}
