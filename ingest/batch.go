package ingest

import (
	"time"

	"github.com/counterfoil/counterfoil/schemas"
)

// Item is one item of a request.
type Item struct {
	Ref *string // the caller's reference
	// Value is a pointer to the Go type of the kind's schema, such as *[schemas.Ownership]; nil when the item does not fit it. Records of
	// reference and fact topics have OwnID.
	Value any
	// Key decides the partition of a keyed kind, such as upserts.Key makes it; nil: the batch key, so that a batch is judged as one. Records of
	// reference and fact topics are keyed by what they are.
	Key []byte
	// Defects, when there are any, make the item unprocessed at the door, in the same transaction; it does not go to the item topic.
	Defects  []schemas.Reason
	Original []byte // the item as sent; kept with Defects
	Format   string // of Original: schemas.FormatJSON or FormatCSV
}

// Batch is the items of one request, all of one kind.
//
// The kind is a kind of items that processors judge, or a reference or fact topic: its records are judged at the door, where those without
// defects are written to the topic itself and have their outcomes at once.
type Batch struct {
	Tenant string
	KeyID  string // of the caller
	Door   string // one of [Doors]
	// Operation is what was called of the door, such as its last part of the path, the same however the path was spelt. An Idempotency-Key
	// belongs to tenant, door and operation.
	Operation string
	Kind      string // schemas.KindOwnership, ..., or schemas.Accounts, ..., schemas.Calls, ...
	ItemKind  string // kind of customer event, where the topic holds several; else empty
	Ref       *string
	Lookback  *int32         // months, of a batch of sales
	Wait      *time.Duration // for outcomes; nil: as configured, 0: not at all
	Items     []Item
}

// Result is the outcome of one item. Neither Processed nor Reasons set: it is pending.
type Result struct {
	Index     int
	ID        string           // the item's identity, 32 lower-case hex digits; set for pending items too
	Processed any              // the outcome's head, such as *schemas.OwnershipResult
	Reasons   []schemas.Reason // why it is unprocessed
}

// Receipt says that a batch was accepted, and what is known of its items.
type Receipt struct {
	Number  int64
	Results []Result // by index, one for each item
	Pending int      // items without an outcome yet: answer 202 with [JobURL]
}
