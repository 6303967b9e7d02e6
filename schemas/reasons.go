package schemas

import (
	"slices"
	"strings"
)

// Codes of [Reason]. They are ours and few; each adapter maps them to its partner's vocabulary.
const (
	CodeMissing             = "missing"              // a mandatory member is absent, null or empty
	CodeInvalid             = "invalid"              // wrong type, format or value
	CodeOutOfRange          = "out_of_range"         // well-formed, but outside what can be kept
	CodeMultipleIdentifiers = "multiple_identifiers" // more than one of members that exclude each other
	CodeNotFound            = "not_found"            // an identifier does not resolve
	CodeNotAllowed          = "not_allowed"          // exists, but may not be used here
	CodeCurrencyMismatch    = "currency_mismatch"    // intended currency is not the unit's
	CodeAlreadyReferred     = "already_referred"     // the participant was referred before
	CodeSelfReferral        = "self_referral"        // a participant referred itself
	CodeDuplicateRef        = "duplicate_ref"        // the caller's reference stands twice in one batch
	CodeNoMatch             = "no_match"             // a valid sale that no call matches; may match when replayed later
	CodeSuperseded          = "superseded"           // a replay of what a later item of the same key has settled otherwise
	CodeInternalError       = "internal_error"       // our fault; the item can be replayed
)

// Codes of dead letters only.
const (
	CodeTenantMissing = "tenant_missing" // no tenant header
	CodeBadHeader     = "bad_header"     // a header of the envelope is malformed
	CodeUndecodable   = "undecodable"    // not in the Confluent wire format, or not what its schema says
	CodeUnknownSchema = "unknown_schema" // the registry confirmed twice that it has no such schema
	CodeKeyMismatch   = "key_mismatch"   // a reference or fact record whose key is not <tenant>/<own id>
)

// Reason is one defect of an item.
type Reason struct {
	Code    string  `avro:"code" json:"code"`
	Field   string  `avro:"field" json:"field"`           // path with the Avro member names, such as products[0].product; empty for the whole item
	Value   *string `avro:"value" json:"value,omitempty"` // the offending value as sent, where it is short and known
	Message string  `avro:"message" json:"message"`       // one sentence for people
}

// MaxReasons is how many defects of an item are told: 200,000 bad lines fit in a 1 MiB item, but their reasons would not fit in its outcome.
const MaxReasons = 100

// Covered reports whether a defect, found in what could be read of an item, only says again what was found while it was read: it is about the
// same member, or about one within it; or it misses a member that is there and could not be read, or not whole, or one of which either must be there.
func Covered(found []Reason, by Reason) bool {
	within := func(path, of string) bool {
		rest, ok := strings.CutPrefix(path, of)
		return ok && of != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	return slices.ContainsFunc(found, func(r Reason) bool {
		return within(by.Field, r.Field) || by.Code == CodeMissing && (within(r.Field, by.Field) || within(r.Field, either[by.Field]))
	})
}

// either are members of which one at least must be there, of items of any kind.
var either = map[string]string{"account": "participant", "participant": "account", "mhid": "clis", "clis": "mhid"}
