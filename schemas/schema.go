package schemas

import (
	"embed"
	"encoding/json"
	"fmt"

	"github.com/twmb/avro"
)

//go:embed avro/*.avsc
var files embed.FS

// Schema is one of the compiled-in value schemas.
type Schema struct {
	name string
	text string
	avro *avro.Schema
	head *avro.Schema // without the trailing item, for outcomes that carry one; else nil
}

// Name is the file's name without its ending, such as customer_event.
func (s *Schema) Name() string { return s.name }

// Text is the schema as registered: JSON.
func (s *Schema) Text() string { return s.text }

// Avro is the compiled schema.
func (s *Schema) Avro() *avro.Schema { return s.avro }

// The value schemas.
var (
	BatchHeaderSchema          = load("batch_header")
	OwnershipSchema            = load("ownership")
	OwnershipProcessedSchema   = load("ownership_processed")
	OwnershipStateSchema       = load("ownership_state")
	CustomerEventSchema        = load("customer_event")
	EventProcessedSchema       = load("event_processed")
	ReferralSchema             = load("referral")
	ReferralProcessedSchema    = load("referral_processed")
	ReferralStateSchema        = load("referral_state")
	SaleSchema                 = load("sale")
	SaleProcessedSchema        = load("sale_processed")
	TransactionSchema          = load("transaction")
	TransactionProcessedSchema = load("transaction_processed")
	RequestSchema              = load("request")
	RequestAnswerSchema        = load("request_answer")
	AttemptSchema              = load("attempt")
	UnprocessedSchema          = load("unprocessed")
	DeadLetterSchema           = load("dead_letter")
	AccountSchema              = load("account")
	ParticipantSchema          = load("participant")
	UnitSchema                 = load("unit")
	ClassificationSchema       = load("classification")
	ProductSchema              = load("product")
	PaymentMediumTypeSchema    = load("payment_medium_type")
	PaymentMediumBrandSchema   = load("payment_medium_brand")
	KPISchema                  = load("kpi")
	InvoiceSchema              = load("invoice")
	CustomerSchema             = load("customer")
	CustomerPartSchema         = load("customer_part")
	APIKeySchema               = load("api_key")
	ReferenceProcessedSchema   = load("reference_processed")
	CallSchema                 = load("call")
	OrderLineSchema            = load("order_line")
	InvoiceLineSchema          = load("invoice_line")
	StockSchema                = load("stock")
)

// ParseAvro compiles an Avro schema so that decimals decode to [Decimal].
func ParseAvro(text string) (*avro.Schema, error) { return avro.Parse(text, decimalType) }

func load(name string) *Schema {
	text, err := files.ReadFile("avro/" + name + ".avsc")
	if err != nil {
		panic(err)
	}
	s := &Schema{name: name, text: compact(text)}
	if s.avro, err = ParseAvro(s.text); err != nil {
		panic(fmt.Sprintf("schema %s: %v", name, err))
	}
	if s.head, err = withoutItem(text); err != nil {
		panic(fmt.Sprintf("schema %s: %v", name, err))
	}
	return s
}

// compact drops the file's white space and keeps the order of its members.
func compact(text []byte) string {
	var raw json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		panic(err)
	}
	out, err := json.Marshal(raw)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// withoutItem compiles the schema without its last field, where that field is named item; otherwise it returns nil. An outcome's item
// comes last so that its bytes can be appended, or left alone, without decoding them.
func withoutItem(text []byte) (*avro.Schema, error) {
	var record map[string]json.RawMessage
	if err := json.Unmarshal(text, &record); err != nil {
		return nil, err
	}
	var fields []json.RawMessage
	if err := json.Unmarshal(record["fields"], &fields); err != nil {
		return nil, err
	}
	var last struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(fields[len(fields)-1], &last); err != nil || last.Name != "item" {
		return nil, err
	}
	var err error
	if record["fields"], err = json.Marshal(fields[:len(fields)-1]); err != nil {
		return nil, err
	}
	head, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	return ParseAvro(string(head))
}
