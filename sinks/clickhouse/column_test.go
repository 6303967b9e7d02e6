package clickhouse

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Whatever rows have values, are cut off half-written, are dropped or are dropped from the middle: a column has what a list of rows has in
// which each row is written out.
func TestColumnsAgreeWithRows(t *testing.T) {
	for _, shape := range []struct {
		name           string
		nullable, list bool
	}{{"plain", false, false}, {"nullable", true, false}, {"list", false, true}, {"list of nullable", true, true}} {
		t.Run(shape.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, 8))
			for range 200 {
				count := 0
				c := &col[int64]{rows: &count, nullable: shape.nullable, list: shape.list}
				var model [][]int64 // of each row; a scalar is a list of one, null is -1
				write := func() []int64 {
					switch {
					case rng.IntN(3) > 0: // the member is null
						switch {
						case shape.list:
							return nil
						case shape.nullable:
							return []int64{-1}
						}
						return []int64{0}
					case !shape.list:
						v := rng.Int64N(100) + 1
						c.put(v)
						return []int64{v}
					}
					var row []int64
					for range rng.IntN(4) {
						if shape.nullable && rng.IntN(3) == 0 {
							c.null()
							row = append(row, -1)
							continue
						}
						v := rng.Int64N(100) + 1
						c.put(v)
						row = append(row, v)
					}
					return row
				}
				for range rng.IntN(30) {
					switch rng.IntN(10) {
					case 0: // a record that ends in the middle
						write()
						c.truncate(count)
					case 1:
						count = rng.IntN(count + 1)
						model = model[:count]
						c.truncate(count)
					case 2:
						mask := make([]bool, count)
						kept := model[:0]
						for i := range mask {
							if mask[i] = rng.IntN(2) == 0; mask[i] {
								kept = append(kept, model[i])
							}
						}
						model = kept
						c.keep(mask)
						count = len(model)
					case 3:
						if rng.IntN(4) == 0 {
							c.reset()
							count, model = 0, nil
						}
					default:
						row := write()
						if shape.list && len(row) > 0 || shape.list && rng.IntN(2) == 0 { // an empty list may be said or not
							c.close()
						}
						model = append(model, row)
						count++
					}
				}
				used := slices.ContainsFunc(model, func(row []int64) bool {
					return slices.ContainsFunc(row, func(v int64) bool { return v > 0 || shape.list })
				})
				if used && !c.used() {
					t.Fatalf("a column with values says it has none: %v", model)
				}
				c.settle(count)
				var got [][]int64
				start := 0
				for i := range count {
					end := i + 1
					if shape.list {
						end = c.ends[i]
					}
					var row []int64
					for j := start; j < end; j++ {
						if shape.nullable && c.nulls[j] {
							row = append(row, -1)
						} else {
							row = append(row, c.vals[j])
						}
					}
					got = append(got, row)
					start = end
				}
				if diff := cmp.Diff(model, got, cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("(-rows +column):\n%s", diff)
				}
			}
		})
	}
}
