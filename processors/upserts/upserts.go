// Package upserts decides who owns how many of a product: the kind ownership.
//
// [Check] needs nothing but the item and finds all of its defects; it runs at the door of partners that take a batch whole or not at all,
// and again in the engine, which judges only what passes. [Decide] applies an item to the record of its key. Both are pure: the same
// arguments give the same answer, and nothing else is read or changed.
//
// # The rule
//
// q is the quantity of the record, 0 where there is none; the contract publishes defaults that contradict each other, this table is ours:
//
//	has_product     quantity   increase_quantity_by   new quantity
//	false           any        any                    0
//	absent or true  n          ignored                n
//	absent          absent     k, by default 1        q+k, at least 0
//	true            absent     absent                 q, at least 1
//	true            absent     k                      q+k, at least 0
//
// A record that reaches 0 is removed, and what it knew is forgotten. Otherwise time_of_approval and source keep their stored value where
// the item says nothing, and lose it where clear names them. User and SKU are compared without regard to case (and by nothing else: blanks
// count); the record shows the spelling that was sent last.
//
// # Replays
//
// A replay comes after later changes of its key, and must not undo them ([DecideReplay]). What sets the quantity (the first, second and fourth
// line of the table) is superseded by any later change; what adds to it is added still, but leaves spelling, time_of_approval and source as
// they are. Whether a record was removed since cannot be seen here, because nothing is kept of one that is gone: who replays must look.
//
// # Fields of reasons
//
// user_name, product_sku, time_of_approval, source, quantity, increase_quantity_by, clear. Codes: missing, invalid, out_of_range, superseded.
package upserts

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/processors/internal/defects"
	"github.com/counterfoil/counterfoil/schemas"
)

// MaxQuantity is the largest quantity and the largest change in either direction that one item may ask for.
const MaxQuantity = 1_000_000_000

// Members that clear may name.
const (
	timeOfApproval = "time_of_approval"
	source         = "source"
)

// Key is the key of an item's record and of its Kafka record: tenant, folded user and folded SKU, with a NUL between. It is defined for
// every item, so that one with defects has a partition too.
func Key(tenant string, it *schemas.Ownership) []byte {
	user, sku := schemas.Fold(text(it.UserName)), schemas.Fold(text(it.ProductSKU))
	key := make([]byte, 0, len(tenant)+len(user)+len(sku)+2)
	key = append(key, tenant...)
	key = append(key, 0)
	key = append(key, user...)
	key = append(key, 0)
	return append(key, sku...)
}

// Check returns all defects of an item; nil when [Decide] may have it.
func Check(it *schemas.Ownership) []schemas.Reason {
	var d defects.List
	d.Name("user_name", it.UserName)
	d.Name("product_sku", it.ProductSKU)
	d.Instant(timeOfApproval, it.TimeOfApproval)
	d.Short(source, it.Source)
	if q := it.Quantity; q != nil && (*q < 0 || *q > MaxQuantity) {
		d.Add(schemas.CodeOutOfRange, "quantity", number(*q), fmt.Sprintf("is %d; it must lie between 0 and %d.", *q, MaxQuantity))
	}
	if k := it.IncreaseQuantityBy; k != nil && (*k < -MaxQuantity || *k > MaxQuantity) {
		d.Add(schemas.CodeOutOfRange, "increase_quantity_by", number(*k),
			fmt.Sprintf("is %d; it must lie between %d and %d.", *k, -MaxQuantity, MaxQuantity))
	}
	for _, member := range it.Clear {
		switch {
		case member != timeOfApproval && member != source:
			d.Add(schemas.CodeInvalid, "clear", defects.Value(member), fmt.Sprintf("names %s; only %s and %s can be cleared.", defects.Quote(member), timeOfApproval, source))
		case member == timeOfApproval && it.TimeOfApproval != nil, member == source && it.Source != nil:
			d.Add(schemas.CodeInvalid, "clear", defects.Value(member), fmt.Sprintf("names %s, which the item also sets.", member))
		}
	}
	return d.Reasons()
}

// Decide applies an item that passed [Check] to the record of its key: cur, nil where there is none. version is that of the change
// ([schemas.Version]). The result comes without its Outcome part. next is the new record, nil where none is left. It shares no memory with
// the item, and neither of the two is changed later: a record is kept for long, and the decoder lets the texts of many items share a buffer.
func Decide(it *schemas.Ownership, cur *schemas.OwnershipState, version int64) (res schemas.OwnershipResult, next *schemas.OwnershipState) {
	if cur == nil {
		cur = &schemas.OwnershipState{}
	}
	res = schemas.OwnershipResult{
		UserKey:          schemas.Fold(text(it.UserName)),
		SKUKey:           schemas.Fold(text(it.ProductSKU)),
		UserName:         text(it.UserName),
		ProductSKU:       text(it.ProductSKU),
		Quantity:         quantity(it, cur.Quantity),
		PreviousQuantity: cur.Quantity,
		Version:          version,
	}
	if res.Quantity == 0 {
		return res, nil
	}
	res.TimeOfApproval, res.Source = cur.TimeOfApproval, cur.Source
	for _, member := range it.Clear {
		switch member {
		case timeOfApproval:
			res.TimeOfApproval = nil
		case source:
			res.Source = nil
		}
	}
	if it.TimeOfApproval != nil {
		res.TimeOfApproval = new(time.Time)
		*res.TimeOfApproval = *it.TimeOfApproval
	}
	if it.Source != nil {
		res.Source = new(string)
		*res.Source = strings.Clone(*it.Source)
	}
	return res, &schemas.OwnershipState{
		UserName:       strings.Clone(res.UserName),
		ProductSKU:     strings.Clone(res.ProductSKU),
		TimeOfApproval: res.TimeOfApproval,
		Source:         res.Source,
		Quantity:       res.Quantity,
		Version:        version,
	}
}

// Sets reports whether an item says what the quantity is to be, and not by how much it changes.
func Sets(it *schemas.Ownership) bool {
	switch {
	case it.HasProduct != nil && !*it.HasProduct, it.Quantity != nil:
		return true
	default:
		return it.HasProduct != nil && it.IncreaseQuantityBy == nil
	}
}

// DecideReplay is [Decide] for a replay. place is the version that the item would have had when it was accepted; a record of a higher one has
// been changed since. There are reasons where that leaves nothing to do.
func DecideReplay(it *schemas.Ownership, cur *schemas.OwnershipState, place, version int64) (res schemas.OwnershipResult, next *schemas.OwnershipState, reasons []schemas.Reason) {
	if cur == nil || cur.Version <= place {
		res, next = Decide(it, cur, version)
		return res, next, nil
	}
	if Sets(it) {
		return res, nil, []schemas.Reason{{Code: schemas.CodeSuperseded, Message: "A later change of what this user has of the product was processed; this one would undo it."}}
	}
	added := schemas.Ownership{UserName: &cur.UserName, ProductSKU: &cur.ProductSKU, HasProduct: it.HasProduct, IncreaseQuantityBy: it.IncreaseQuantityBy}
	res, next = Decide(&added, cur, version)
	return res, next, nil
}

// quantity is the table in the package comment.
func quantity(it *schemas.Ownership, q int64) int64 {
	switch {
	case it.HasProduct != nil && !*it.HasProduct:
		return 0
	case it.Quantity != nil:
		return *it.Quantity
	case it.IncreaseQuantityBy != nil:
		return add(q, *it.IncreaseQuantityBy)
	case it.HasProduct != nil:
		return max(1, q)
	default:
		return add(q, 1)
	}
}

// add clamps to what a quantity can be. The upper end takes nine thousand million items of the largest increase.
func add(q, k int64) int64 {
	if k > 0 && q > math.MaxInt64-k {
		return math.MaxInt64
	}
	return max(0, q+k)
}

func number(n int64) *string {
	s := strconv.FormatInt(n, 10)
	return &s
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
