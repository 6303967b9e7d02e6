package schemas

import "time"

// Sale is the item of the kind sales: a sale that is to be matched to a telephone call.
type Sale struct {
	ID          *string        `avro:"id"` // the caller's own; nil: always a new sale
	Description *string        `avro:"description"`
	Date        *time.Time     `avro:"date"`  // a day, UTC
	Value       *string        `avro:"value"` // money as the caller wrote it
	MHID        *string        `avro:"mhid"`
	CLIs        *[]string      `avro:"clis"`     // caller numbers, as sent
	Lookback    *int32         `avro:"lookback"` // months before Date, 1 to 60
	Properties  []SaleProperty `avro:"properties"`
}

// SaleProperty is a property of the caller's own.
type SaleProperty struct {
	Key   *string `avro:"key"`
	Value *string `avro:"value"`
}

// What a sale and a call that match have in common: [SaleResult.Rule] and [Candidate.Rule].
const (
	RuleMHID = "mhid"
	RuleCLI  = "cli"
)

// SaleResult is the head of a matched sale's outcome: all of [SaleProcessed] but the item.
type SaleResult struct {
	Outcome
	SaleKey          string    `avro:"sale_key"` // the sale's id, or the item's identity where it has none
	Version          int64     `avro:"version"`
	Rule             string    `avro:"rule"`
	CallID           string    `avro:"call_id"`
	CallStartedAt    time.Time `avro:"call_started_at"`
	CallMHID         *string   `avro:"call_mhid"`
	CallCallerNumber *string   `avro:"call_caller_number"`
	Campaign         *string   `avro:"campaign"`
	Source           *string   `avro:"source"`
	Medium           *string   `avro:"medium"`
	Keyword          *string   `avro:"keyword"`
}

// SaleProcessed is the value of sales.processed.
type SaleProcessed struct {
	SaleResult
	Item Sale `avro:"item"`
}

// UnmatchedSale is a sale that is valid and matched no call: an unprocessed outcome, and a sale all the same.
type UnmatchedSale struct {
	SaleKey    string      `avro:"sale_key"`
	Version    int64       `avro:"version"`
	Candidates []Candidate `avro:"candidates"` // the nearest first, at most ten
	Item       Sale        `avro:"item"`
}

// Candidate is a call that shares the MHID or a number with a sale and was ruled out.
type Candidate struct {
	CallID    string    `avro:"call_id"`
	StartedAt time.Time `avro:"started_at"`
	Rule      string    `avro:"rule"`
	RuledOut  string    `avro:"ruled_out"`
}

// Why a candidate does not count: [Candidate.RuledOut].
const (
	RuledOutBeforeWindow = "before_window"
	RuledOutAfterSale    = "after_sale"
)
