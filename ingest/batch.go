package ingest

import "github.com/counterfoil/counterfoil/schemas"

// Item is one item of a request.
type Item struct {
	Ref *string // the caller's reference
	// Value is *[schemas.Ownership], *[schemas.CustomerEvent] or *[schemas.Referral], as the kind says; nil when the item does not fit its schema.
	Value any
	// Key decides the partition of a keyed kind, such as upserts.Key makes it; nil: the batch key, so that a batch is judged as one.
	Key []byte
	// Defects, when there are any, make the item unprocessed at the door, in the same transaction; it does not go to the item topic.
	Defects  []schemas.Reason
	Original []byte // the item as sent; kept with Defects
	Format   string // of Original: schemas.FormatJSON or FormatCSV
}

// Batch is the items of one request, all of one kind.
type Batch struct {
	Tenant   string
	KeyID    string // of the caller
	Door     string // "crm.com", "helloid"
	Kind     string // schemas.KindOwnership, ...
	ItemKind string // kind of customer event, where the topic holds several; else empty
	Ref      *string
	Items    []Item
}

// Result is the outcome of one item. Neither Processed nor Reasons set: it is pending.
type Result struct {
	Index     int
	ID        string           // the item's identity, 32 lower-case hex digits; set for pending items too
	Processed any              // *schemas.OwnershipResult, *schemas.EventResult or *schemas.ReferralResult
	Reasons   []schemas.Reason // why it is unprocessed
}

// Receipt says that a batch was accepted, and what is known of its items.
type Receipt struct {
	Number  int64
	Results []Result // by index, one for each item
	Pending int      // items without an outcome yet: answer 202 with [JobURL]
}
