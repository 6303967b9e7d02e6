package checker

import (
	"github.com/counterfoil/counterfoil/schemas"
)

// model applies changes of ownership one after the other, by the table in processors/upserts. It is written anew here, so that an error of the
// engine's decision shows as a difference.
type model map[string]int64 // quantities by key; absent: 0

// apply returns the quantity before and after.
func (m model) apply(tenant string, it *schemas.Ownership) (key string, before, after int64) {
	key = tenant + "\x00" + schemas.Fold(*it.UserName) + "\x00" + schemas.Fold(*it.ProductSKU)
	before = m[key]
	k, given := int64(1), it.IncreaseQuantityBy != nil
	if given {
		k = *it.IncreaseQuantityBy
	}
	switch {
	case it.HasProduct != nil && !*it.HasProduct:
		after = 0
	case it.Quantity != nil:
		after = *it.Quantity
	case it.HasProduct != nil && !given:
		after = max(1, before)
	default:
		after = max(0, before+k)
	}
	if after == 0 {
		delete(m, key)
	} else {
		m[key] = after
	}
	return key, before, after
}
