//! What can be asked: one line per method and path.

/// Who may ask.
#[derive(Debug, Clone, Copy)]
pub(super) enum Auth {
    Nobody,
    Person,
    Device,
    Ticket,
}

/// One operation.
pub(super) struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub summary: &'static str,
    pub auth: Auth,
    /// `name:kind` of the query's parameters, separated by spaces.
    pub query: &'static str,
    /// Kind of the body; with `?` if it may be left out; empty for none.
    pub body: &'static str,
    pub status: u16,
    /// Kind of the answer; empty for none.
    pub answer: &'static str,
}

macro_rules! operations {
    ($($auth:ident $method:literal $path:literal $(? $query:literal)? $(< $body:literal)? => $status:literal $answer:literal, $summary:literal;)*) => {
        &[$(Operation {
            method: $method,
            path: $path,
            summary: $summary,
            auth: Auth::$auth,
            query: concat!("" $(, $query)?),
            body: concat!("" $(, $body)?),
            status: $status,
            answer: $answer,
        },)*]
    };
}

pub(super) const OPERATIONS: &[Operation] = operations! {
    Nobody "GET" "/healthz" => 200 "any", "The process serves";
    Nobody "GET" "/readyz" => 200 "any", "The database answers and writes, and the external MQTT broker, where there is one, is connected";
    Nobody "GET" "/metrics" => 200 "text", "Prometheus' page; a personal access token is needed from other machines";
    Nobody "GET" "/v1/openapi.json" => 200 "any", "This document";
    Nobody "GET" "/v1/hub" => 200 "HubInfo", "What anybody may know of this hub";

    Nobody "POST" "/v1/enrol" < "EnrolRequest" => 200 "EnrolState", "Ask for a place on the list; asking again with the same key gives the same request";
    Nobody "GET" "/v1/enrol/{request}" ? "wait:int" => 200 "EnrolState", "What was decided; waits up to `wait` seconds for a decision";
    Device "POST" "/v1/device/renew" < "RenewRequest" => 200 "Identity", "A new certificate for the device that asks";
    Device "GET" "/v1/device/self" => 200 "DeviceSelf", "What the hub thinks of the device that asks";
    Device "GET" "/mqtt" => 101 "", "MQTT 5 as WebSocket, sub-protocol mqtt";

    Nobody "POST" "/v1/login" < "LoginRequest" => 201 "AccessToken", "A personal access token for an e-mail and its password";
    Person "GET" "/v1/me" => 200 "Me", "Who asks";
    Nobody "GET" "/v1/login/methods" => 200 "LoginMethods", "How people log in to this hub";
    Nobody "GET" "/v1/login/oidc/start" ? "redirect_uri:string challenge:string state:string user_code:string" => 303 "", "Begin single sign-on in a browser: for `muster` at this computer's loopback, or for a device code";
    Nobody "GET" "/v1/login/oidc/callback" ? "code:string state:string iss:string error:string error_description:string" => 200 "html", "Where the provider sends a browser back to: the page that asks for a yes";
    Nobody "POST" "/v1/login/oidc/confirm" < "form" => 200 "html", "The answer to that page; 303 to the loopback, or a page";
    Nobody "POST" "/v1/login/code" < "LoginCode" => 201 "AccessToken", "A personal access token for the code that a browser brought to the loopback";
    Nobody "POST" "/v1/login/device" < "DeviceLoginStart" => 201 "DeviceLogin", "Begin a login by device code (RFC 8628)";
    Nobody "POST" "/v1/login/device/token" < "DeviceLoginPoll" => 201 "AccessToken", "Ask whether it was confirmed: `authorization_pending`, `slow_down`, `expired`, `forbidden`, or a token";
    Nobody "GET" "/login/device" ? "code:string" => 200 "html", "The page for the code of a login by device code";
    Person "PATCH" "/v1/me" < "MeEdit" => 200 "Me", "Change your display name";
    Person "PUT" "/v1/me/password" < "PasswordPut" => 204 "", "Change your password";
    Person "DELETE" "/v1/me" < "AccountClose" => 204 "", "Close your account; what it did stays in the records under its name";
    Person "GET" "/v1/tokens" => 200 "Page<AccessToken>", "Your personal access tokens";
    Person "POST" "/v1/tokens" < "AccessTokenCreate" => 201 "AccessToken", "Make a personal access token";
    Person "DELETE" "/v1/tokens/{id}" => 204 "", "Withdraw one of your personal access tokens";

    Person "GET" "/v1/orgs" => 200 "Page<Org>", "Your organizations";
    Person "POST" "/v1/orgs" < "OrgCreate" => 201 "Org", "Make an organization and become its owner";
    Person "GET" "/v1/orgs/{org}" => 200 "Org", "An organization";
    Person "PATCH" "/v1/orgs/{org}" < "OrgEdit" => 200 "Org", "Change what it says of itself; null clears a field";
    Person "DELETE" "/v1/orgs/{org}" ? "confirm:string forfeit:string" => 204 "", "Delete it, once nothing stands in the way; `confirm` is its id, which is never given again, `forfeit` the balance that is given up";
    Person "GET" "/v1/orgs/{org}/logo" => 200 "image", "Its logo";
    Person "PUT" "/v1/orgs/{org}/logo" < "image" => 200 "Org", "Give it a logo: PNG, JPEG or WebP, at most 256 KiB and 2048 x 2048";
    Person "DELETE" "/v1/orgs/{org}/logo" => 204 "", "Take its logo away";
    Person "POST" "/v1/orgs/{org}/leave" => 204 "", "Leave it, its teams and its projects";
    Person "GET" "/v1/orgs/{org}/collaborators" => 200 "Page<Collaborator>", "People without a role in it who have one in its projects or are in its teams";
    Person "GET" "/v1/orgs/{org}/teams" => 200 "Page<Team>", "Its teams";
    Person "POST" "/v1/orgs/{org}/teams" < "TeamCreate" => 201 "Team", "Make a team";
    Person "GET" "/v1/orgs/{org}/teams/{team}" => 200 "Team", "A team and who is in it";
    Person "PATCH" "/v1/orgs/{org}/teams/{team}" < "TeamEdit" => 200 "Team", "Change its name and description; null clears a field";
    Person "DELETE" "/v1/orgs/{org}/teams/{team}" => 204 "", "Delete it with its roles in projects";
    Person "PUT" "/v1/orgs/{org}/teams/{team}/members/{email}" => 200 "Team", "Put a member or collaborator into it";
    Person "DELETE" "/v1/orgs/{org}/teams/{team}/members/{email}" => 204 "", "Remove a person from it";
    Person "GET" "/v1/orgs/{org}/teams/{team}/avatar" => 200 "image", "Its avatar";
    Person "PUT" "/v1/orgs/{org}/teams/{team}/avatar" < "image" => 200 "Team", "Give it an avatar: PNG, JPEG or WebP, at most 256 KiB and 2048 x 2048";
    Person "DELETE" "/v1/orgs/{org}/teams/{team}/avatar" => 204 "", "Take its avatar away";
    Person "GET" "/v1/orgs/{org}/members" => 200 "Page<Member>", "Its members";
    Person "PUT" "/v1/orgs/{org}/members/{email}" < "MemberPut" => 200 "Member", "Make an account a member, or change its role";
    Person "DELETE" "/v1/orgs/{org}/members/{email}" => 204 "", "Take a member out of the organization and its projects";
    Person "GET" "/v1/orgs/{org}/service-accounts" => 200 "Page<ServiceAccount>", "Service accounts, by name";
    Person "POST" "/v1/orgs/{org}/service-accounts" < "ServiceAccountCreate" => 201 "ServiceAccount", "Make a service account";
    Person "DELETE" "/v1/orgs/{org}/service-accounts/{name}" => 204 "", "Delete a service account; its tokens and sessions end at once";
    Person "GET" "/v1/orgs/{org}/service-accounts/{name}/tokens" => 200 "Page<AccessToken>", "Tokens of a service account";
    Person "POST" "/v1/orgs/{org}/service-accounts/{name}/tokens" < "AccessTokenCreate" => 201 "AccessToken", "Make a token for a service account";
    Person "DELETE" "/v1/orgs/{org}/service-accounts/{name}/tokens/{id}" => 204 "", "Withdraw a token of a service account";
    Person "GET" "/v1/orgs/{org}/invitations" => 200 "Page<Invitation>", "Invitations that wait for their people, newest first";
    Person "POST" "/v1/orgs/{org}/invitations" < "InvitationCreate" => 201 "Invitation", "Invite a person to the organization, or to one project; the answer has the link";
    Person "POST" "/v1/orgs/{org}/invitations/{id}/resend" => 200 "Invitation", "A new link for 7 days; the old one is dead";
    Person "DELETE" "/v1/orgs/{org}/invitations/{id}" => 204 "", "Withdraw an invitation";
    Nobody "POST" "/v1/invitations/look" < "InvitationLook" => 200 "InvitationLooked", "What an invitation is, for the holder of its link";
    Nobody "POST" "/v1/invitations/accept" < "InvitationAccept" => 200 "InvitationAccepted", "Accept one: logged in as the invited account, or with name and password of a new one";
    Nobody "GET" "/invite" => 200 "html", "The page behind an invitation's link";
    Person "GET" "/v1/orgs/{org}/audit" ? "actor:string action:string target:string result:string since:millis until:millis cursor:string after:int limit:int format:string follow:bool" => 200 "Page<AuditEvent>", "Who did what, newest first; `format` jsonl or csv for a file, `follow` for lines as they come";

    Person "GET" "/v1/orgs/{org}/usage" ? "from:string to:string by:string project:string device:string whole:bool format:string" => 200 "Usage", "What was used, by day: of all, by project or by device; `format=csv` for a file";
    Person "GET" "/v1/orgs/{org}/projects/{project}/usage" ? "from:string to:string by:string project:string device:string whole:bool format:string" => 200 "Usage", "What a project used, by day";
    Person "GET" "/v1/orgs/{org}/billing" => 200 "Billing", "Balance, rates, and what projects spent";
    Person "GET" "/v1/orgs/{org}/ledger" ? "cursor:string limit:int format:string" => 200 "Page<LedgerLine>", "Charges, top-ups and corrections, newest first; `format=csv` for a file";
    Person "POST" "/v1/orgs/{org}/credits" < "CreditAdd" => 201 "LedgerLine", "Book credits, as an owner of the hub; 200 where the key was booked before";
    Person "GET" "/v1/orgs/{org}/limits" => 200 "Limits", "How much it may have, and has";
    Person "PATCH" "/v1/orgs/{org}/limits" < "LimitsEdit" => 200 "Limits", "Set its own limits, or as an owner of the hub what the hub allows it";

    Person "GET" "/v1/orgs/{org}/projects" => 200 "Page<Project>", "The projects that you see";
    Person "POST" "/v1/orgs/{org}/projects" < "ProjectCreate" => 201 "Project", "Make a project";
    Person "GET" "/v1/orgs/{org}/projects/{project}" => 200 "Project", "A project";
    Person "PATCH" "/v1/orgs/{org}/projects/{project}" < "ProjectEdit" => 200 "Project", "Change its name, description and visibility; null clears a field";
    Person "POST" "/v1/orgs/{org}/projects/{project}/archive" => 200 "Project", "Make it read-only; its sessions end";
    Person "POST" "/v1/orgs/{org}/projects/{project}/restore" => 200 "Project", "Bring it back from the archive";
    Person "POST" "/v1/orgs/{org}/projects/{project}/devices" < "ProjectDevices" => 200 "Assigned", "Put devices in and take devices out: all of them, or none";
    Person "GET" "/v1/orgs/{org}/projects/{project}/teams" => 200 "Page<ProjectTeam>", "The teams that have a role in it";
    Person "PUT" "/v1/orgs/{org}/projects/{project}/teams/{team}" < "ProjectTeamPut" => 200 "ProjectTeam", "Give a team a role in it";
    Person "DELETE" "/v1/orgs/{org}/projects/{project}/teams/{team}" => 204 "", "Take a team out of it";
    Person "GET" "/v1/orgs/{org}/projects/{project}/participants" => 200 "Page<Participant>", "Its participants";
    Person "PUT" "/v1/orgs/{org}/projects/{project}/participants/{email}" < "ParticipantPut" => 200 "Participant", "Give a person a role in it";
    Person "DELETE" "/v1/orgs/{org}/projects/{project}/participants/{email}" => 204 "", "Take a participant out of it";

    Person "GET" "/v1/orgs/{org}/enrolment-tokens" => 200 "Page<EnrolmentToken>", "Enrolment tokens, newest first";
    Person "POST" "/v1/orgs/{org}/enrolment-tokens" < "EnrolmentTokenCreate" => 201 "EnrolmentToken", "Make an enrolment token";
    Person "DELETE" "/v1/orgs/{org}/enrolment-tokens/{id}" => 204 "", "Withdraw an enrolment token; devices that it enrolled stay";

    Person "GET" "/v1/orgs/{org}/devices" ? "filter:string sort:string view:string project:string admission:Admission presence:PresenceState cursor:string limit:int" => 200 "DevicePage", "The device list, by filter and order";
    Person "POST" "/v1/orgs/{org}/devices" < "DeviceAdd" => 201 "Device", "Enter a device that has no daemon";
    Person "POST" "/v1/orgs/{org}/devices/bulk" < "BulkRequest" => 200 "BulkResult", "Do something to many devices, all or nothing";
    Person "POST" "/v1/orgs/{org}/devices/import" ? "dry_run:bool" < "csv" => 200 "ImportResult", "Enter and edit devices from a CSV file, all or nothing";
    Person "GET" "/v1/orgs/{org}/devices/export" ? "filter:string sort:string view:string project:string admission:Admission presence:PresenceState columns:string" => 200 "csv", "The device list as a CSV file";
    Person "GET" "/v1/orgs/{org}/devices/{device}" => 200 "Device", "A device, by uid, id (serial number), name or pairing code";
    Person "PATCH" "/v1/orgs/{org}/devices/{device}" < "DeviceEdit" => 200 "Device", "Change its name, fields, labels and projects";
    Person "DELETE" "/v1/orgs/{org}/devices/{device}" => 204 "", "Take it off the list";
    Person "POST" "/v1/orgs/{org}/devices/{device}/admit" => 200 "Device", "Admit it";
    Person "POST" "/v1/orgs/{org}/devices/{device}/reject" < "DeviceDecision?" => 200 "Device", "Say no to it, or to the key that asks for its place";
    Person "POST" "/v1/orgs/{org}/devices/{device}/revoke" < "DeviceDecision?" => 200 "Device", "Cut it off at once";
    Person "POST" "/v1/orgs/{org}/devices/{device}/replace" < "DeviceReplace?" => 200 "Device", "Give its place to the key that asks for it";
    Person "POST" "/v1/orgs/{org}/devices/{device}/renew" => 200 "Device", "Ask it for a new certificate now, and so to learn where MQTT is";
    Person "POST" "/v1/orgs/{org}/devices/{device}/watch" < "WatchRequest" => 204 "", "One sample per second for a while";
    Person "GET" "/v1/orgs/{org}/devices/{device}/presence" ? "since:millis limit:int" => 200 "Page<PresenceChange>", "When it came and went, newest first";
    Person "GET" "/v1/orgs/{org}/devices/{device}/usage" ? "since:millis limit:int" => 200 "Page<Sample>", "Its samples";
    Person "GET" "/v1/orgs/{org}/devices/{device}/policy" => 200 "DevicePolicy", "Its owner's policy as it told it last; 404 until it has told it";

    Person "GET" "/v1/orgs/{org}/fields" => 200 "Page<Field>", "The custom fields of its devices";
    Person "POST" "/v1/orgs/{org}/fields" < "FieldCreate" => 201 "Field", "Define a custom field";
    Person "PATCH" "/v1/orgs/{org}/fields/{field}" ? "confirm:string" < "FieldEdit" => 200 "Field", "Change a custom field; choices that devices have go only with its key as `confirm`";
    Person "DELETE" "/v1/orgs/{org}/fields/{field}" ? "confirm:string" => 204 "", "Delete a custom field; with values in it only with its key as `confirm`";
    Person "GET" "/v1/orgs/{org}/views" => 200 "Page<View>", "Saved views of the device list: your own, then the shared ones";
    Person "POST" "/v1/orgs/{org}/views" < "ViewCreate" => 201 "View", "Save a view";
    Person "PATCH" "/v1/orgs/{org}/views/{view}" ? "shared:bool" < "ViewEdit" => 200 "View", "Change a view";
    Person "DELETE" "/v1/orgs/{org}/views/{view}" ? "shared:bool" => 204 "", "Delete a view";

    Person "POST" "/v1/orgs/{org}/devices/{device}/sessions" < "SessionCreate" => 201 "SessionTicket", "Open a session to it";
    Person "GET" "/v1/orgs/{org}/sessions" ? "device:string state:SessionState cursor:string limit:int" => 200 "Page<Session>", "Sessions, newest first";
    Person "GET" "/v1/orgs/{org}/sessions/{id}" => 200 "Session", "A session";
    Person "DELETE" "/v1/orgs/{org}/sessions/{id}" => 204 "", "End a session";
    Person "POST" "/v1/orgs/{org}/devices/{device}/runs" < "RunCreate" => 201 "Run", "Run a command on it; the order waits for a device that is offline, ten minutes by default";
    Person "GET" "/v1/orgs/{org}/runs" ? "device:string state:string user:string cursor:string limit:int" => 200 "Page<Run>", "Runs, newest first; `state` is one, or `alive` or `over`";
    Person "GET" "/v1/orgs/{org}/runs/{id}" => 200 "Run", "A run";
    Person "GET" "/v1/orgs/{org}/runs/{id}/output" ? "from:int follow:bool" => 200 "lines", "What it wrote, one JSON object a line, the run as the last; with `follow` until it is over";
    Person "POST" "/v1/orgs/{org}/runs/{id}/cancel" => 200 "Run", "End it, and all that it started";
    Ticket "GET" "/v1/sessions/{id}/client" => 101 "", "The client's leg of a session, sub-protocol muster.session.v1";
    Ticket "GET" "/v1/sessions/{id}/device" => 101 "", "The device's leg of a session; a client certificate that the device made for this session is needed as well";
};
