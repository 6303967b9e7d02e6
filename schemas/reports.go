package schemas

import (
	"errors"
	"time"
)

// What reports say: the rows that ingest asks of ClickHouse.

// BatchReport is what is known of an accepted batch.
type BatchReport struct {
	Number      int64
	Key         string // 32 hex digits
	Tenant      string
	Kind        string
	ItemKind    *string
	Door        string
	Items       int64 // in its header
	Processed   int64 // distinct items whose last attempt was processed
	Unprocessed int64 // distinct items whose last attempt was not
	AcceptedAt  time.Time
	Lookback    *int32 // months, of a batch of sales
	// Failed: every item's first attempt ended in internal_error, so that the batch as a whole was not processed. By the first attempts,
	// because a replay must not change what a complete batch is called.
	Failed bool
}

// What [BatchReport.Status] says.
const (
	BatchProcessing = "processing"
	BatchComplete   = "complete"
	BatchFailed     = "failed"
)

// Status is [BatchProcessing] until every item has an outcome, then [BatchComplete] or [BatchFailed] for good.
func (b *BatchReport) Status() string {
	switch {
	case b.Processed+b.Unprocessed < b.Items:
		return BatchProcessing
	case b.Failed:
		return BatchFailed
	}
	return BatchComplete
}

// ItemReport is the outcome of the last attempt of an item.
type ItemReport struct {
	Index   int32
	ID      string // 32 hex digits
	Ref     *string
	Reasons []Reason // of an unprocessed item
}

// OutcomeReport is the outcome of the first attempt of an item.
type OutcomeReport struct {
	Index     int32
	Processed any      // head of a processed outcome, such as *[OwnershipResult]; of a member that has no column it holds the zero value
	Reasons   []Reason // of an unprocessed item
}

// OwnershipReport is who owns how many of a product now.
type OwnershipReport struct {
	UserName       string
	ProductSKU     string
	TimeOfApproval *time.Time
	Source         *string
	Quantity       int64
}

// CallQuery asks for the calls that a sale may be matched to.
type CallQuery struct {
	Tenant  string
	MHID    string    // "": none
	Numbers []string  // caller numbers as [PhoneKey] makes them; "" finds nothing
	Until   time.Time // the end of the sale's day: calls that started before it are before the sale
}

// ErrQueryTooHeavy is what ClickHouse answers where a query goes beyond a limit of memory, time or rows. Fewer things in one query may pass,
// while one that cannot reach ClickHouse at all, or finds it wrongly set up, fails otherwise.
var ErrQueryTooHeavy = errors.New("the query is too much work for ClickHouse")

// CallsFound answers a [CallQuery].
type CallsFound struct {
	MHID    Nearest
	Numbers []Nearest // parallel to the query's
}

// Nearest are the calls of one MHID or number on both sides of the query's Until. Of calls that started at the same instant the one with the
// highest id counts.
type Nearest struct {
	Last *FoundCall // the last that started before Until; nil: none
	Next *FoundCall // the first that started at or after it; nil: none
}

// FoundCall is what a sale's outcome says of a call.
type FoundCall struct {
	ID           string
	StartedAt    time.Time
	MHID         *string
	CallerNumber *string // as the telephone system reported it
	Campaign     *string
	Source       *string
	Medium       *string
	Keyword      *string
}

// BuyingReportParams ask what a customer bought.
type BuyingReportParams struct {
	Tenant     string
	CustomerID int64  // counts before AccountNo; 0: not given
	AccountNo  string // of the customer; "": not given
	BasedOn    string // BasedOnOrders or BasedOnInvoices
	MonthsBack int32  // from the same day so many months before Today, at least 1
	// WeeksUntilAvailable leaves out what is not in stock and does not come back within so many weeks of Today; 0 leaves out nothing.
	WeeksUntilAvailable int32
	Today               time.Time // a day, UTC
}

// What a buying report is based on.
const (
	BasedOnOrders   = "O"
	BasedOnInvoices = "I"
)

// BuyingReportItem is a product that a customer bought.
type BuyingReportItem struct {
	ID           int64
	Code         string
	Description  string
	CustPartNo   string
	Barcode      string
	EPOSBarcode  string
	Qty          int64      // net of what came back, more than 0
	LastInvoiced *time.Time // a day, whenever that was; nil: never
	NextAvail    *time.Time // a day; nil: in stock, or not known
}
