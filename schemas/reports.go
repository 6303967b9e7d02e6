package schemas

import "time"

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
}

// ItemReport is the outcome of the last attempt of an item.
type ItemReport struct {
	Index   int32
	ID      string // 32 hex digits
	Ref     *string
	Reasons []Reason // of an unprocessed item
}

// OwnershipReport is who owns how many of a product now.
type OwnershipReport struct {
	UserName       string
	ProductSKU     string
	TimeOfApproval *time.Time
	Source         *string
	Quantity       int64
}
