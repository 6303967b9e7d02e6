package schemas

import "time"

// Fact topics: what upstream systems report. Keyed <tenant>/<own id>; a record replaces the one of the same own id that was accepted before
// it, and a null value deletes it. They have as many partitions as item topics, and any partitioner of the producer's will do, because what
// came later is told by the broker's time, see [FactVersion].
const (
	Calls        = "calls"
	OrderLines   = "order_lines"
	InvoiceLines = "invoice_lines"
	StockLevels  = "stock"
)

// Call is a telephone call that was tracked.
type Call struct {
	ID                string    `avro:"id"`
	StartedAt         time.Time `avro:"started_at"`
	CallerNumber      *string   `avro:"caller_number"` // as the telephone system reported it
	MHID              *string   `avro:"mhid"`
	VisitorID         *string   `avro:"visitor_id"`
	ServiceNumber     *string   `avro:"service_number"`
	TerminatingNumber *string   `avro:"terminating_number"`
	Campaign          *string   `avro:"campaign"`
	Source            *string   `avro:"source"` // the last, as are Medium and Keyword
	Medium            *string   `avro:"medium"`
	Keyword           *string   `avro:"keyword"`
	FirstSource       *string   `avro:"first_source"`
	FirstMedium       *string   `avro:"first_medium"`
	FirstKeyword      *string   `avro:"first_keyword"`
	GoogleClickID     *string   `avro:"google_click_id"`
	GoogleClientID    *string   `avro:"google_client_id"`
	MediaChannel      *string   `avro:"media_channel"`
	MediaOwner        *string   `avro:"media_owner"`
	MediaDescription  *string   `avro:"media_description"`
	Department        *string   `avro:"department"`
	Tags              []string  `avro:"tags"`
	CallRef           *string   `avro:"call_ref"`
	PageURI           *string   `avro:"page_uri"`
	PageTitle         *string   `avro:"page_title"`
	LandingPageURI    *string   `avro:"landing_page_uri"`
	LandingPageTitle  *string   `avro:"landing_page_title"`
}

// OrderLine is a line of a customer's order.
type OrderLine struct {
	ID          string    `avro:"id"`
	OrderNumber *string   `avro:"order_number"`
	Customer    int64     `avro:"customer"` // own id
	Product     string    `avro:"product"`  // own id
	Quantity    Decimal   `avro:"quantity"` // negative for what was taken back
	OrderedOn   time.Time `avro:"ordered_on"`
}

// InvoiceLine is a line of an invoice or credit note.
type InvoiceLine struct {
	ID            string    `avro:"id"`
	InvoiceNumber *string   `avro:"invoice_number"`
	OrderNumber   *string   `avro:"order_number"`
	Customer      int64     `avro:"customer"` // own id
	Product       string    `avro:"product"`  // own id
	Quantity      Decimal   `avro:"quantity"` // negative for a return or credit
	InvoicedOn    time.Time `avro:"invoiced_on"`
}

// Stock is what is there of a product.
type Stock struct {
	Product               string     `avro:"product"` // own id of the product and of the record
	AvailableNow          Decimal    `avro:"available_now"`
	Physical              *Decimal   `avro:"physical"`
	NextAvailableOn       *time.Time `avro:"next_available_on"`
	NextAvailableQuantity *Decimal   `avro:"next_available_quantity"`
}

func (r *Call) OwnID() string        { return r.ID }
func (r *OrderLine) OwnID() string   { return r.ID }
func (r *InvoiceLine) OwnID() string { return r.ID }
func (r *Stock) OwnID() string       { return r.Product }

// OwnIDMembers are the members of a reference or fact topic's value that make a record's own id, joined by slashes; for who has the value
// only as text. See [Reference].
func OwnIDMembers(topic string) []string {
	switch topic {
	case StockLevels:
		return []string{"product"}
	case CustomerParts:
		return []string{"customer", "product"}
	default:
		return []string{"id"}
	}
}

// FactVersion orders the records of one own id by their acceptance: the broker's append time in milliseconds, then the offset, of which the
// lowest 20 bits tell records of one millisecond and partition apart. It does not depend on the partition, so that a line that is sent
// again by a producer with another partitioner, or through the API, still replaces the one before.
func FactVersion(appended time.Time, offset int64) int64 {
	return appended.UnixMilli()<<20 | offset&(1<<20-1)
}
