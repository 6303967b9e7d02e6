package schemas

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Reference topics: compacted, one partition each, keyed <tenant>/<own id>.
const (
	Accounts            = "accounts"
	Participants        = "participants"
	Units               = "units"
	Classifications     = "classifications"
	Products            = "products"
	PaymentMediumTypes  = "payment_medium_types"
	PaymentMediumBrands = "payment_medium_brands"
	KPIs                = "kpis"
	Invoices            = "invoices"
	Customers           = "customers"
	CustomerParts       = "customer_parts"
	APIKeys             = "api_keys"
)

// Account is an account receivable.
type Account struct {
	ID                  string    `avro:"id"`
	Number              string    `avro:"number"`
	Name                *string   `avro:"name"`
	PaymentMediumTypes  *[]string `avro:"payment_medium_types"`  // ids allowed; nil: all
	PaymentMediumBrands *[]string `avro:"payment_medium_brands"` // ids allowed; nil: all
}

// Participant is a rewards participant.
type Participant struct {
	ID        string  `avro:"id"`
	Number    string  `avro:"number"`
	AccountID *string `avro:"account_id"`
}

// Unit is a business unit.
type Unit struct {
	ID              string  `avro:"id"`
	Name            string  `avro:"name"`
	AlternativeCode *string `avro:"alternative_code"`
	CurrencyID      *string `avro:"currency_id"`
	CurrencyCode    *string `avro:"currency_code"`
}

// Classification is a classification of customer events of one kind.
type Classification struct {
	ID              string  `avro:"id"`
	Name            string  `avro:"name"`
	AlternativeCode *string `avro:"alternative_code"`
	Kind            string  `avro:"kind"`
}

// Product is a product.
type Product struct {
	ID              string   `avro:"id"`
	Number          *int64   `avro:"number"`
	Code            string   `avro:"code"`
	AlternativeCode *string  `avro:"alternative_code"`
	Description     *string  `avro:"description"`
	Barcodes        []string `avro:"barcodes"`
}

// PaymentMediumType is a type of payment media.
type PaymentMediumType struct {
	ID              string  `avro:"id"`
	Name            string  `avro:"name"`
	AlternativeCode *string `avro:"alternative_code"`
}

// PaymentMediumBrand is a brand of payment media.
type PaymentMediumBrand struct {
	ID              string  `avro:"id"`
	Name            string  `avro:"name"`
	AlternativeCode *string `avro:"alternative_code"`
}

// KPI is a key performance indicator.
type KPI struct {
	ID              string  `avro:"id"`
	Name            string  `avro:"name"`
	AlternativeCode *string `avro:"alternative_code"`
}

// Invoice is an invoice of the CRM system.
type Invoice struct {
	ID              string  `avro:"id"`
	Number          *string `avro:"number"`
	ReferenceNumber *string `avro:"reference_number"`
	BackOfficeCode  *string `avro:"back_office_code"`
}

// Customer is a customer of the buying report.
type Customer struct {
	ID            int64   `avro:"id"`
	AccountNumber *string `avro:"account_number"` // at most 10 characters
	Name          *string `avro:"name"`
}

// CustomerPart is a customer's own part number for a product.
type CustomerPart struct {
	Customer   int64  `avro:"customer"` // own id
	Product    string `avro:"product"`  // own id
	PartNumber string `avro:"part_number"`
}

// APIKey is a caller's key; its secret is kept as a hash only.
type APIKey struct {
	ID         string    `avro:"id"` // 6 base62 characters
	Tenant     string    `avro:"tenant"`
	SecretHash []byte    `avro:"secret_hash"` // SHA-256 of the secret, which has 128 random bits
	Doors      *[]string `avro:"doors"`       // nil: all
	AllowedIPs *[]string `avro:"allowed_ips"` // addresses or prefixes; nil: any
	RateLimit  *int32    `avro:"rate_limit"`  // requests a second; nil: none
	Enabled    bool      `avro:"enabled"`
	Note       string    `avro:"note"`
	CreatedAt  time.Time `avro:"created_at"`
}

// Reference is a record of a reference topic. Identifiers yields each identifier that finds it, by the name of the member that callers use.
type Reference interface {
	OwnID() string
	Identifiers(yield func(field, value string))
}

func (r *Account) OwnID() string            { return r.ID }
func (r *Participant) OwnID() string        { return r.ID }
func (r *Unit) OwnID() string               { return r.ID }
func (r *Classification) OwnID() string     { return r.ID }
func (r *Product) OwnID() string            { return r.ID }
func (r *PaymentMediumType) OwnID() string  { return r.ID }
func (r *PaymentMediumBrand) OwnID() string { return r.ID }
func (r *KPI) OwnID() string                { return r.ID }
func (r *Invoice) OwnID() string            { return r.ID }
func (r *Customer) OwnID() string           { return strconv.FormatInt(r.ID, 10) }
func (r *CustomerPart) OwnID() string       { return strconv.FormatInt(r.Customer, 10) + "/" + r.Product }
func (r *APIKey) OwnID() string             { return r.ID }

func (r *Account) Identifiers(yield func(field, value string)) {
	yield("id", r.ID)
	yield("number", r.Number)
	yieldSet(yield, "name", r.Name)
}

func (r *Participant) Identifiers(yield func(field, value string)) {
	yield("id", r.ID)
	yield("number", r.Number)
}

func (r *Unit) Identifiers(yield func(field, value string)) {
	named(yield, r.ID, r.Name, r.AlternativeCode)
}

func (r *Classification) Identifiers(yield func(field, value string)) {
	named(yield, r.ID, r.Name, r.AlternativeCode)
}

func (r *Product) Identifiers(yield func(field, value string)) {
	yield("id", r.ID)
	yield("code", r.Code)
	yieldSet(yield, "alternative_code", r.AlternativeCode)
}

func (r *PaymentMediumType) Identifiers(yield func(field, value string)) {
	named(yield, r.ID, r.Name, r.AlternativeCode)
}

func (r *PaymentMediumBrand) Identifiers(yield func(field, value string)) {
	named(yield, r.ID, r.Name, r.AlternativeCode)
}

func (r *KPI) Identifiers(yield func(field, value string)) {
	named(yield, r.ID, r.Name, r.AlternativeCode)
}

func (r *Invoice) Identifiers(yield func(field, value string)) {
	yield("id", r.ID)
	yieldSet(yield, "number", r.Number)
	yieldSet(yield, "reference_number", r.ReferenceNumber)
	yieldSet(yield, "back_office_code", r.BackOfficeCode)
}

func (r *APIKey) Identifiers(yield func(field, value string)) { yield("id", r.ID) }

func named(yield func(field, value string), id, name string, code *string) {
	yield("id", id)
	yield("name", name)
	yieldSet(yield, "alternative_code", code)
}

func yieldSet(yield func(field, value string), field string, value *string) {
	if value != nil && *value != "" {
		yield(field, *value)
	}
}

// ReferenceKey is the record key that a reference or fact topic requires: <tenant>/<own id as in the value>.
func ReferenceKey(tenant, ownID string) []byte {
	return append(append(make([]byte, 0, len(tenant)+1+len(ownID)), tenant...), "/"+ownID...)
}

// SplitReference reads whose record a reference or fact record is and its own id: from its key, <tenant>/<own id>, and its tenant header, which
// must name the same tenant, so that nobody writes for another by the key alone. The error is a *[BadRecordError].
func SplitReference(rec *kgo.Record) (tenant, own string, err error) {
	env, err := ParseEnvelope(rec.Headers)
	if errors.Is(err, ErrTenantMissing) {
		return "", "", &BadRecordError{Code: CodeTenantMissing, Message: "the record has no usable tenant header"}
	}
	if err != nil {
		return "", "", &BadRecordError{Code: CodeBadHeader, Message: err.Error()}
	}
	tenant, own, ok := strings.Cut(string(rec.Key), "/")
	switch {
	case !ok || tenant == "" || own == "":
		return "", "", &BadRecordError{Code: CodeKeyMismatch, Message: "the record's key must be <tenant>/<own id>"}
	case tenant != env.Tenant:
		return "", "", &BadRecordError{Code: CodeKeyMismatch, Message: "the record's key names another tenant than its header"}
	}
	return tenant, own, nil
}
