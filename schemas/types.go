package schemas

import "time"

// Item topics; a kind is named by the topic of its items.
const (
	KindOwnership      = "ownership"
	KindCustomerEvents = "customer_events"
	KindReferrals      = "referrals"
	KindSales          = "sales"
	KindTransactions   = "transactions"
)

// Kinds of customer events: the member kind of [CustomerEvent] and of [Classification]. Referrals have a topic of their own.
const (
	EventAchievement          = "achievement"
	EventPurchase             = "purchase"
	EventReferral             = "referral"
	EventSocialMedia          = "social_media"
	EventWeb                  = "web"
	EventFinancialAchievement = "financial_achievement"
	EventFinancialStatement   = "financial_statement"
)

// BatchHeader is the value of the topic batches.
type BatchHeader struct {
	Tenant         string    `avro:"tenant"`
	Key            string    `avro:"key"`
	Kind           string    `avro:"kind"`
	ItemKind       *string   `avro:"item_kind"`
	Door           string    `avro:"door"`
	KeyID          string    `avro:"key_id"`
	Items          int32     `avro:"items"`
	ReplyPartition int32     `avro:"reply_partition"`
	Ref            *string   `avro:"ref"`
	AcceptedAt     time.Time `avro:"accepted_at"`
	Lookback       *int32    `avro:"lookback"` // months, of a batch of sales
}

// Outcome is what every outcome, processed or unprocessed, begins with.
type Outcome struct {
	Tenant          string    `avro:"tenant"`
	ID              string    `avro:"id"`    // the item's identity: 32 lower-case hex digits
	Batch           *string   `avro:"batch"` // nil for a bare record
	Index           int32     `avro:"index"`
	Attempt         int32     `avro:"attempt"` // from 1
	Ref             *string   `avro:"ref"`
	SourceTopic     string    `avro:"source_topic"`
	SourceEpoch     int32     `avro:"source_epoch"`
	SourcePartition int32     `avro:"source_partition"`
	SourceOffset    int64     `avro:"source_offset"` // -1 when refused at the door
	AcceptedAt      time.Time `avro:"accepted_at"`
	JudgedAt        time.Time `avro:"judged_at"`
}

// Unprocessed is the value of every topic <kind>.unprocessed.
type Unprocessed struct {
	Outcome
	Kind     string   `avro:"kind"`
	ItemKind *string  `avro:"item_kind"`
	Reasons  []Reason `avro:"reasons"`
	Format   string   `avro:"format"`
	Original []byte   `avro:"original"`

	Sale *UnmatchedSale `avro:"sale"` // of a valid sale without a match, nil for everything else
}

// Formats of [Unprocessed.Original].
const (
	FormatAvro = "avro" // the record's value, in the Confluent wire format
	FormatJSON = "json"
	FormatCSV  = "csv"
)

// Ownership is a change of who owns how many of a product: the item of the kind ownership.
type Ownership struct {
	UserName           *string    `avro:"user_name"`
	ProductSKU         *string    `avro:"product_sku"`
	TimeOfApproval     *time.Time `avro:"time_of_approval"`
	Source             *string    `avro:"source"`
	HasProduct         *bool      `avro:"has_product"`
	Quantity           *int64     `avro:"quantity"`
	IncreaseQuantityBy *int64     `avro:"increase_quantity_by"`
	Clear              []string   `avro:"clear"` // "time_of_approval", "source"
}

// OwnershipResult is the head of an ownership outcome: all of [OwnershipProcessed] but the item.
type OwnershipResult struct {
	Outcome
	UserKey          string     `avro:"user_key"`
	SKUKey           string     `avro:"sku_key"`
	UserName         string     `avro:"user_name"`
	ProductSKU       string     `avro:"product_sku"`
	TimeOfApproval   *time.Time `avro:"time_of_approval"`
	Source           *string    `avro:"source"`
	Quantity         int64      `avro:"quantity"`
	PreviousQuantity int64      `avro:"previous_quantity"`
	Version          int64      `avro:"version"`
}

// OwnershipProcessed is the value of ownership.processed.
type OwnershipProcessed struct {
	OwnershipResult
	Item Ownership `avro:"item"`
}

// OwnershipState is the value of the changelog ownership.state.
type OwnershipState struct {
	UserName       string     `avro:"user_name"`
	ProductSKU     string     `avro:"product_sku"`
	TimeOfApproval *time.Time `avro:"time_of_approval"`
	Source         *string    `avro:"source"`
	Quantity       int64      `avro:"quantity"`
	Version        int64      `avro:"version"`
}

// AccountIdentifier names an account by exactly one member.
type AccountIdentifier struct {
	ID     *string `avro:"id"`
	Number *string `avro:"number"`
	Name   *string `avro:"name"`
}

// ParticipantIdentifier names a rewards participant by exactly one member.
type ParticipantIdentifier struct {
	ID     *string `avro:"id"`
	Number *string `avro:"number"`
}

// Identifier names a unit, classification, payment medium type or brand, or KPI by exactly one member.
type Identifier struct {
	ID              *string `avro:"id"`
	Name            *string `avro:"name"`
	AlternativeCode *string `avro:"alternative_code"`
}

// ProductIdentifier names a product by exactly one member.
type ProductIdentifier struct {
	ID              *string `avro:"id"`
	Code            *string `avro:"code"`
	AlternativeCode *string `avro:"alternative_code"`
}

// InvoiceIdentifier names an invoice by exactly one member.
type InvoiceIdentifier struct {
	ID              *string `avro:"id"`
	Number          *string `avro:"number"`
	ReferenceNumber *string `avro:"reference_number"`
	BackOfficeCode  *string `avro:"back_office_code"`
}

// CurrencyIdentifier names a currency by exactly one member.
type CurrencyIdentifier struct {
	ID   *string `avro:"id"`
	Code *string `avro:"code"`
}

// EventCommon is what customer events and referrals share.
type EventCommon struct {
	Classification                *Identifier `avro:"classification"`
	Unit                          *Identifier `avro:"unit"`
	PerformedOn                   *time.Time  `avro:"performed_on"`
	Description                   *string     `avro:"description"`
	ExternalSystem                *string     `avro:"external_system"`
	ExternalSystemReferenceNumber *string     `avro:"external_system_reference_number"`

	UDFString1 *string    `avro:"udf_string_1"`
	UDFString2 *string    `avro:"udf_string_2"`
	UDFString3 *string    `avro:"udf_string_3"`
	UDFString4 *string    `avro:"udf_string_4"`
	UDFString5 *string    `avro:"udf_string_5"`
	UDFString6 *string    `avro:"udf_string_6"`
	UDFString7 *string    `avro:"udf_string_7"`
	UDFString8 *string    `avro:"udf_string_8"`
	UDFFloat1  *float64   `avro:"udf_float_1"`
	UDFFloat2  *float64   `avro:"udf_float_2"`
	UDFFloat3  *float64   `avro:"udf_float_3"`
	UDFFloat4  *float64   `avro:"udf_float_4"`
	UDFDate1   *time.Time `avro:"udf_date_1"`
	UDFDate2   *time.Time `avro:"udf_date_2"`
	UDFDate3   *time.Time `avro:"udf_date_3"`
	UDFDate4   *time.Time `avro:"udf_date_4"`
}

// CustomerEvent is the item of the kind customer_events. Which members a kind requires is judged by processors/validation.
type CustomerEvent struct {
	Kind        string                 `avro:"kind"`
	Account     *AccountIdentifier     `avro:"account"`
	Participant *ParticipantIdentifier `avro:"participant"`
	EventCommon

	UDFString9  *string `avro:"udf_string_9"`
	UDFString10 *string `avro:"udf_string_10"`
	UDFString11 *string `avro:"udf_string_11"`
	UDFString12 *string `avro:"udf_string_12"`
	UDFString13 *string `avro:"udf_string_13"`
	UDFString14 *string `avro:"udf_string_14"`
	UDFString15 *string `avro:"udf_string_15"`
	UDFString16 *string `avro:"udf_string_16"`

	ReferenceNumber    *string             `avro:"reference_number"`     // purchase
	PaymentMediumType  *Identifier         `avro:"payment_medium_type"`  // purchase, financial_achievement
	PaymentMediumBrand *Identifier         `avro:"payment_medium_brand"` // purchase, financial_achievement
	PaymentMedium      *string             `avro:"payment_medium"`       // purchase, financial_achievement
	Invoice            *InvoiceIdentifier  `avro:"invoice"`              // purchase
	IntendedCurrency   *CurrencyIdentifier `avro:"intended_currency"`    // purchase; checked, not stored
	Products           *[]PurchaseLine     `avro:"products"`             // purchase

	SocialMedia *string `avro:"social_media"` // social_media
	Profile     *string `avro:"profile"`      // social_media
	Action      *string `avro:"action"`       // social_media

	Website *string `avro:"website"` // web

	Product *ProductIdentifier `avro:"product"` // financial_achievement
	Amount  *Decimal           `avro:"amount"`  // financial_achievement

	Measures *[]Measure `avro:"measures"` // financial_statement
}

// PurchaseLine is one product of a purchase; the amounts are those of the whole line.
type PurchaseLine struct {
	Product     *ProductIdentifier `avro:"product"`
	Quantity    *Decimal           `avro:"quantity"` // 1 when absent
	NetAmount   *Decimal           `avro:"net_amount"`
	VATAmount   *Decimal           `avro:"vat_amount"`
	TotalAmount *Decimal           `avro:"total_amount"`
}

// Measure is one measured key performance indicator of a financial statement.
type Measure struct {
	KPI     *Identifier        `avro:"kpi"`
	Value   *Decimal           `avro:"value"`
	Product *ProductIdentifier `avro:"product"`
}

// EventResult is the head of a customer event's outcome: all of [EventProcessed] but the item.
type EventResult struct {
	Outcome
	Kind                 string   `avro:"kind"`
	Number               int64    `avro:"number"`
	AccountID            *string  `avro:"account_id"`
	AccountNumber        *string  `avro:"account_number"`
	ParticipantID        *string  `avro:"participant_id"`
	ParticipantNumber    *string  `avro:"participant_number"`
	ClassificationID     *string  `avro:"classification_id"`
	UnitID               string   `avro:"unit_id"`
	CurrencyCode         *string  `avro:"currency_code"`
	PaymentMediumTypeID  *string  `avro:"payment_medium_type_id"`
	PaymentMediumBrandID *string  `avro:"payment_medium_brand_id"`
	InvoiceID            *string  `avro:"invoice_id"`
	ProductID            *string  `avro:"product_id"`
	LineProductIDs       []string `avro:"line_product_ids"`
	KPIIDs               []string `avro:"kpi_ids"`
	AmountsDiffer        bool     `avro:"amounts_differ"`
}

// EventProcessed is the value of customer_events.processed.
type EventProcessed struct {
	EventResult
	Item CustomerEvent `avro:"item"`
}

// Referral is the item of the kind referrals.
type Referral struct {
	Referred   *ParticipantIdentifier `avro:"referred"`
	ReferredBy *ParticipantIdentifier `avro:"referred_by"`
	EventCommon
}

// ReferralResult is the head of a referral's outcome: all of [ReferralProcessed] but the item.
type ReferralResult struct {
	Outcome
	Kind             string  `avro:"kind"`
	Number           int64   `avro:"number"`
	ReferredID       string  `avro:"referred_id"`
	ReferredNumber   string  `avro:"referred_number"`
	ReferredByID     string  `avro:"referred_by_id"`
	ReferredByNumber string  `avro:"referred_by_number"`
	ClassificationID *string `avro:"classification_id"`
	UnitID           string  `avro:"unit_id"`
	Version          int64   `avro:"version"`
}

// ReferralProcessed is the value of referrals.processed.
type ReferralProcessed struct {
	ReferralResult
	Item Referral `avro:"item"`
}

// ReferralState is the value of the changelog referrals.state.
type ReferralState struct {
	ReferredID   string `avro:"referred_id"`
	ReferredByID string `avro:"referred_by_id"`
	ItemID       string `avro:"item_id"`
	Version      int64  `avro:"version"`
}

// DeadLetter is the value of dead_letters: a record that could not be read as an item, whole, with its source position.
type DeadLetter struct {
	Tenant     *string   `avro:"tenant"`
	Topic      string    `avro:"topic"`
	Epoch      int32     `avro:"epoch"`
	Partition  int32     `avro:"partition"`
	Offset     int64     `avro:"offset"`
	Key        *[]byte   `avro:"key"`
	Value      *[]byte   `avro:"value"`
	Headers    []Header  `avro:"headers"`
	Reason     Reason    `avro:"reason"`
	RecordedAt time.Time `avro:"recorded_at"` // the record's own timestamp
	At         time.Time `avro:"at"`          // when it was found
}

// Header is a Kafka header of a dead letter.
type Header struct {
	Key   string `avro:"key"`
	Value []byte `avro:"value"`
}

// ReferenceProcessed is the value of references.processed: a record that came through the API and was written to a reference or fact topic.
type ReferenceProcessed struct {
	Outcome
	Kind  string `avro:"kind"`   // the topic
	OwnID string `avro:"own_id"` // of the record
}

// Request is the value of the changelog requests.state: what is remembered of a request with an idempotency key.
type Request struct {
	Tenant   string    `avro:"tenant"`
	Route    string    `avro:"route"`
	Key      string    `avro:"key"`
	BodyHash []byte    `avro:"body_hash"` // SHA-256
	Batch    string    `avro:"batch"`
	Number   int64     `avro:"number"`
	At       time.Time `avro:"at"`
}

// RequestAnswer is the value of requests.answers.
type RequestAnswer struct {
	Tenant  string `avro:"tenant"`
	Batch   string `avro:"batch"`
	Verdict string `avro:"verdict"` // one of the constants below
	First   string `avro:"first"`
	Number  int64  `avro:"number"`
}

// Verdicts on a request with an idempotency key.
const (
	RequestAccepted = "accepted" // it is the first
	RequestRepeated = "repeated" // same key, same body: what the first became is the answer
	RequestConflict = "conflict" // same key, other body
)

// Attempt is the value of the changelog attempts: the last attempt at an item that has an outcome. Only replayed items have one.
type Attempt struct {
	Attempt int32     `avro:"attempt"`
	At      time.Time `avro:"at"` // of the replay's record
}

// AttemptKey is the key of the changelog attempts.
func AttemptKey(kind, itemID string) []byte { return []byte(kind + "/" + itemID) }
