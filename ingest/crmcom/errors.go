package crmcom

import (
	"fmt"
	"strings"

	"github.com/counterfoil/counterfoil/schemas"
)

// exception is an error in CRM.COM's vocabulary: the code that rows and statuses carry, and the generic sentence that goes with it.
type exception struct {
	code        string
	description string
}

// The exceptions. The codes and sentences of notFound and alreadyReferred are printed in CRM.COM's documentation and are byte-compatible;
// no other name is published, so the rest is ours.
var (
	notFound            = exception{"NotFoundAPIValueException", "The specified API value was not found."}
	alreadyReferred     = exception{"ReferredByAnotherParticipantException", "The participant was already referred by another participant."}
	invalidToken        = exception{"InvalidTokenException", "The token is invalid or has expired."}
	invalidCredentials  = exception{"InvalidCredentialsException", "The specified credentials are not valid."}
	mandatoryValue      = exception{"MandatoryAPIValueException", "A mandatory API value was not specified."}
	invalidValue        = exception{"InvalidAPIValueException", "The specified API value is not valid."}
	multipleIdentifiers = exception{"MultipleIdentifiersAPIException", "Only one of the semi-optional API values can be specified."}
	duplicateRequest    = exception{"DuplicateRequestIdentifierException", "The request unique identifier must be unique within a call."}
	maximumExceeded     = exception{"MaximumEventsExceededException", "The maximum number of customer events of a call was exceeded."}
	currencyMismatch    = exception{"CurrencyMismatchException", "The intended currency is not the default currency of the unit."}
	internalError       = exception{"InternalErrorException", "The customer event was accepted, but could not be processed."}

	// Of whole requests, with an HTTP status of their own.
	pending      = exception{"PENDING", "The customer events were accepted and are being processed."}
	tooLarge     = exception{"RequestTooLargeException", "The request exceeds a limit."}
	keyReused    = exception{"IdempotencyKeyReusedException", "The idempotency key was used before, with another request."}
	tooMany      = exception{"TooManyRequestsException", "Too many requests were sent."}
	unavailable  = exception{"ServiceUnavailableException", "The service is not available at the moment."}
	unknownCall  = exception{"UnknownMethodException", "There is no such Web API method."}
	internalCall = exception{"InternalErrorException", "The request could not be processed."}
)

// exceptions maps our reason codes to CRM.COM's exceptions, and to the specific sentence of a row's error_description.
var exceptions = map[string]struct {
	exception
	sentence func(r *schemas.Reason) string
}{
	schemas.CodeMissing:             {mandatoryValue, func(r *schemas.Reason) string { return whoOr(r.Field) + " Is Mandatory." }},
	schemas.CodeInvalid:             {invalidValue, func(r *schemas.Reason) string { return withValue(r) + " Is Not Valid." }},
	schemas.CodeOutOfRange:          {invalidValue, func(r *schemas.Reason) string { return withValue(r) + " Is Out of Range." }},
	schemas.CodeNotAllowed:          {invalidValue, func(r *schemas.Reason) string { return withValue(r) + " Is Not Allowed." }},
	schemas.CodeMultipleIdentifiers: {multipleIdentifiers, multipleSentence},
	schemas.CodeNotFound:            {notFound, func(r *schemas.Reason) string { return fmt.Sprintf("%s (%s) Not Found.", noun(r.Field), value(r)) }},
	schemas.CodeCurrencyMismatch:    {currencyMismatch, func(r *schemas.Reason) string { return withValue(r) + " Is Not the Currency of the Unit." }},
	schemas.CodeAlreadyReferred: {alreadyReferred, func(r *schemas.Reason) string {
		return fmt.Sprintf("Participant %s Was Already Referred by Another Participant.", value(r))
	}},
	schemas.CodeSelfReferral:  {invalidValue, func(r *schemas.Reason) string { return fmt.Sprintf("Participant %s Cannot Refer Itself.", value(r)) }},
	schemas.CodeDuplicateRef:  {duplicateRequest, func(r *schemas.Reason) string { return withValue(r) + " Was Already Used in the Same Call." }},
	schemas.CodeInternalError: {internalError, func(*schemas.Reason) string { return "Internal Error." }},
}

// describe says why a row is unprocessed: by the first of its reasons, as a server that stops at the first error would, so that the text
// has the published form. All reasons are in the list of the batch's unprocessed items.
func describe(reasons []schemas.Reason) (code, description string) {
	first := &reasons[0]
	e, ok := exceptions[first.Code]
	if !ok {
		e = exceptions[schemas.CodeInternalError]
	}
	return e.code, "Error:" + e.sentence(first) + " - Description:" + e.description
}

func multipleSentence(r *schemas.Reason) string {
	return "Only One Value of " + whoOr(r.Field) + " Can Be Given."
}

// whoOr is the wire name of a member. Account and participant exclude each other, and a reason about the pair has the field account.
func whoOr(field string) string {
	if field == "account" {
		return wireName("account") + " or " + wireName("participant")
	}
	return wireName(field)
}

// withValue is the wire name of the reason's member, and the value if it is known.
func withValue(r *schemas.Reason) string {
	name := wireName(r.Field)
	if r.Value == nil {
		return name
	}
	return name + " (" + *r.Value + ")"
}

func value(r *schemas.Reason) string {
	if r.Value == nil {
		return ""
	}
	return *r.Value
}

// wireNames are the members that CRM.COM calls otherwise than our schemas do.
var wireNames = map[string]string{
	"":                     "The Customer Event",
	"ref":                  "request_unique_identifier",
	"account":              "accounts_receivable_identifier",
	"participant":          "rewards_participant_identifier",
	"classification":       "classification_identifier",
	"unit":                 "performed_by_unit_identifier",
	"product":              "product_identifier",
	"products":             "products_set",
	"payment_medium_type":  "payment_medium_type_identifier",
	"payment_medium_brand": "payment_medium_brand_identifier",
	"payment_medium":       "payment_medium_identifier",
	"invoice":              "invoice_identifier",
	"intended_currency":    "intended_currency_identifier",
	"measures":             "measured_key_performance_indicators_set",
	"kpi":                  "key_performance_indicator_identifier",
	"referred":             "referred_rewards_participant_identifier",
	"referred_by":          "referred_by_rewards_participant_identifier",
}

// wireName turns a path of ours, such as products[0].product, into that of the request: products_set[0].product_identifier.
func wireName(path string) string {
	var b strings.Builder
	for i, part := range strings.Split(path, ".") {
		if i > 0 {
			b.WriteByte('.')
		}
		name, index := part, ""
		if n := strings.IndexByte(part, '['); n >= 0 {
			name, index = part[:n], part[n:]
		}
		if wire, ok := wireNames[name]; ok {
			name = wire
		}
		b.WriteString(name)
		b.WriteString(index)
	}
	return b.String()
}

// nouns are what "… (…) Not Found." begins with; Account is CRM.COM's own.
var nouns = map[string]string{
	"account":              "Account",
	"participant":          "Participant",
	"referred":             "Participant",
	"referred_by":          "Participant",
	"unit":                 "Unit",
	"classification":       "Classification",
	"product":              "Product",
	"payment_medium_type":  "Payment Medium Type",
	"payment_medium_brand": "Payment Medium Brand",
	"invoice":              "Invoice",
	"kpi":                  "Key Performance Indicator",
	"intended_currency":    "Currency",
}

// noun is the word for what the last member of a path names. A path may go on to the member of the identifier.
func noun(path string) string {
	parts := strings.Split(path, ".")
	for i := len(parts) - 1; i >= 0; i-- {
		if n, ok := nouns[parts[i]]; ok {
			return n
		}
	}
	return wireName(path)
}

// failure is a call that is refused as a whole.
type failure struct {
	exception
	message string
}

func (f *failure) Error() string { return f.code + ": " + f.message }
