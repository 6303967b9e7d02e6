// Package matching decides which telephone call a sale is owed to: the kind sales.
//
// [Check] needs nothing but the sale and finds all of its defects; it runs at the door of partners that take a batch whole or not at all,
// and again in the engine. [Query] says what must be known of the calls to decide, and [Decide] does. All are pure: the same arguments give
// the same answer, and nothing else is read or changed.
//
// # The rule
//
// The partner publishes only that calls of the last lookback months are searched for one of the sale's MHID; the rest is ours:
//
//   - The window is [date - lookback months, end of date] in UTC. Months are the calendar's; where the day does not exist the window begins
//     with the last day of the month that has one: 31 August less 6 months is 28 or 29 February.
//   - A call of the sale's MHID goes before one of its caller numbers. MHIDs compare exactly, numbers by [schemas.PhoneKey].
//   - Of several calls the most recent one counts, whichever of the sale's numbers it came from; of calls that started in the same
//     millisecond that of the highest id.
//
// A sale without such a call is unprocessed with the reason no_match, which says what was looked for, and with the calls that came nearest:
// the last before the window and the first after the day of the sale, of the MHID and of each number.
//
// # Fields of reasons
//
// id, description, date, value, mhid, clis, lookback, properties; [] counts from 0. Codes: missing, invalid, out_of_range, no_match.
package matching

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/processors/internal/defects"
	"github.com/counterfoil/counterfoil/schemas"
)

// Limits of a sale.
const (
	MinLookback = 1 // months
	MaxLookback = 60
	// MaxNumbers bounds what one sale makes ClickHouse look up. A customer has a handful of telephones.
	MaxNumbers = 100
	// MaxCandidates is how many calls an unmatched sale names.
	MaxCandidates = 10
)

// SaleKey is what a sale replaces an earlier one by: its id, exactly as sent, or the item's identity where it has none, so that it replaces
// nothing. An empty id is none.
func SaleKey(it *schemas.Sale, itemID string) string {
	if hasID(it) {
		return *it.ID
	}
	return itemID
}

// Key is the key of an item's Kafka record, which decides the partition where it is judged: tenant and [SaleKey] with a NUL between.
func Key(tenant string, it *schemas.Sale, itemID string) []byte {
	sale := SaleKey(it, itemID)
	key := make([]byte, 0, len(tenant)+1+len(sale))
	key = append(key, tenant...)
	key = append(key, 0)
	return append(key, sale...)
}

// Ordered reports whether the partition of [Key] matters: a sale with an id must be judged after the earlier ones of that id, while one
// without may be judged wherever it lies.
func Ordered(it *schemas.Sale) bool { return hasID(it) }

func hasID(it *schemas.Sale) bool { return it.ID != nil && *it.ID != "" }

// Check returns all defects of a sale; nil when [Query] and [Decide] may have it.
func Check(it *schemas.Sale) []schemas.Reason {
	var d defects.List
	d.Short("id", it.ID)
	d.Text("description", it.Description)
	if it.Date == nil {
		d.Missing("date")
	}
	d.Instant("date", it.Date)
	d.Text("value", it.Value)
	checkWho(&d, it)
	switch n := it.Lookback; {
	case n == nil:
		d.Missing("lookback")
	case *n < MinLookback || *n > MaxLookback:
		sent := strconv.Itoa(int(*n))
		d.Add(schemas.CodeOutOfRange, "lookback", &sent, fmt.Sprintf("is %d; it must lie between %d and %d months.", *n, MinLookback, MaxLookback))
	}
	for i := range it.Properties {
		d.In("properties", i)
		d.Short("key", it.Properties[i].Key)
		d.Text("value", it.Properties[i].Value)
	}
	return d.Reasons()
}

// checkWho checks the two members that say whose calls are looked for. One of the two must say something; what the numbers are is not
// asked, because a withheld one is everyday traffic.
func checkWho(d *defects.List, it *schemas.Sale) {
	if (it.MHID == nil || *it.MHID == "") && (it.CLIs == nil || len(*it.CLIs) == 0) {
		d.Add(schemas.CodeMissing, "mhid", nil, "is empty and so is clis; one of the two must say whose calls to look for.")
	}
	d.Short("mhid", it.MHID)
	if it.CLIs == nil {
		return
	}
	if n := len(*it.CLIs); n > MaxNumbers {
		d.Add(schemas.CodeOutOfRange, "clis", nil, fmt.Sprintf("has %d numbers; at most %d are allowed.", n, MaxNumbers))
		return
	}
	for i := range *it.CLIs {
		d.In("clis", i)
		d.Short("", &(*it.CLIs)[i])
	}
	d.Out()
}

// Window is when a call must have started to be matched by a sale that passed [Check]: not before from, and before until.
func Window(it *schemas.Sale) (from, until time.Time) {
	year, month, day := it.Date.UTC().Date()
	until = time.Date(year, month, day+1, 0, 0, 0, 0, time.UTC)
	first := time.Date(year, month-time.Month(*it.Lookback), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day() // of that month
	return first.AddDate(0, 0, min(day, last)-1), until
}

// Query is what [Decide] must know of the calls for a sale that passed [Check]. Each number is asked for once; what is no number is not
// asked for.
func Query(tenant string, it *schemas.Sale) schemas.CallQuery {
	_, until := Window(it)
	q := schemas.CallQuery{Tenant: tenant, Until: until}
	if it.MHID != nil {
		q.MHID = *it.MHID
	}
	for _, text := range clis(it) {
		if key := schemas.PhoneKey(text); key != "" && !slices.Contains(q.Numbers, key) {
			q.Numbers = append(q.Numbers, key)
		}
	}
	return q
}

func clis(it *schemas.Sale) []string {
	if it.CLIs == nil {
		return nil
	}
	return *it.CLIs
}

// Decide matches a sale that passed [Check]. asked is its [Query] and found the answer. The result comes without its Outcome part, SaleKey
// and Version. There are reasons where no call matches, and then candidates: the calls that came nearest.
func Decide(it *schemas.Sale, asked *schemas.CallQuery, found *schemas.CallsFound) (res schemas.SaleResult, candidates []schemas.Candidate, reasons []schemas.Reason) {
	from, until := Window(it)
	if c := found.MHID.Last; c != nil && !c.StartedAt.Before(from) {
		return result(schemas.RuleMHID, c), nil, nil
	}
	var latest *schemas.FoundCall
	for i := range found.Numbers {
		if c := found.Numbers[i].Last; c != nil && !c.StartedAt.Before(from) && (latest == nil || later(c, latest)) {
			latest = c
		}
	}
	if latest != nil {
		return result(schemas.RuleCLI, latest), nil, nil
	}
	candidates = nearest(found, from, until)
	reason := schemas.Reason{Code: schemas.CodeNoMatch, Message: unmatched(it, asked, candidates, from, until)}
	return schemas.SaleResult{}, candidates, []schemas.Reason{reason}
}

// later reports whether call a counts before call b.
func later(a, b *schemas.FoundCall) bool {
	return cmp.Or(a.StartedAt.Compare(b.StartedAt), strings.Compare(a.ID, b.ID)) > 0
}

func result(rule string, c *schemas.FoundCall) schemas.SaleResult {
	return schemas.SaleResult{
		Rule: rule, CallID: c.ID, CallStartedAt: c.StartedAt, CallMHID: c.MHID, CallCallerNumber: c.CallerNumber,
		Campaign: c.Campaign, Source: c.Source, Medium: c.Medium, Keyword: c.Keyword,
	}
}

// nearest lists the calls that were found on either side of the window, the nearest to it first, each once.
func nearest(found *schemas.CallsFound, from, until time.Time) []schemas.Candidate {
	all := []schemas.Candidate{}
	add := func(rule, ruledOut string, c *schemas.FoundCall) {
		if c != nil && !slices.ContainsFunc(all, func(have schemas.Candidate) bool { return have.CallID == c.ID }) {
			all = append(all, schemas.Candidate{CallID: c.ID, StartedAt: c.StartedAt, Rule: rule, RuledOut: ruledOut})
		}
	}
	add(schemas.RuleMHID, schemas.RuledOutBeforeWindow, found.MHID.Last)
	add(schemas.RuleMHID, schemas.RuledOutAfterSale, found.MHID.Next)
	for _, n := range found.Numbers {
		add(schemas.RuleCLI, schemas.RuledOutBeforeWindow, n.Last)
		add(schemas.RuleCLI, schemas.RuledOutAfterSale, n.Next)
	}
	distance := func(c schemas.Candidate) int64 { // in milliseconds; centuries are too long for a Duration
		if c.RuledOut == schemas.RuledOutBeforeWindow {
			return from.UnixMilli() - c.StartedAt.UnixMilli()
		}
		return c.StartedAt.UnixMilli() - until.UnixMilli()
	}
	slices.SortStableFunc(all, func(a, b schemas.Candidate) int {
		return cmp.Or(cmp.Compare(distance(a), distance(b)), cmp.Compare(a.CallID, b.CallID))
	})
	return all[:min(len(all), MaxCandidates)]
}
