package checker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/counterfoil/counterfoil/schemas"
)

// problems collects sentences; of each check only the first ones are kept.
type problems struct {
	all  []string
	kind string
	n    int
}

const mostOfAKind = 10

func (p *problems) begin(kind string) { p.kind, p.n = kind, 0 }

func (p *problems) add(format string, args ...any) {
	p.n++
	switch {
	case p.n <= mostOfAKind:
		p.all = append(p.all, p.kind+": "+fmt.Sprintf(format, args...))
	case p.n == mostOfAKind+1:
		p.all = append(p.all, p.kind+": and more of the kind")
	}
}

// Check returns every promise that was broken.
func (w *World) Check() []string {
	p := &problems{}
	w.checkOutcomes(p)
	w.checkBatches(p)
	w.checkForwarded(p)
	w.checkOwnership(p)
	w.checkReferrals(p)
	w.checkTables(p)
	return p.all
}

// attempt identifies an outcome.
type attempt struct {
	id string
	n  int32
}

// checkOutcomes: every item that lies where it belongs has exactly one outcome, which names its position; every outcome belongs to such an
// item, or to one that was refused at the door; every dead record has no outcome.
func (w *World) checkOutcomes(p *problems) {
	p.begin("one outcome each")
	seen := map[attempt]Position{}
	bySource := map[Position]*Outcome{}
	for i := range w.Outcomes {
		o := &w.Outcomes[i]
		key := attempt{o.ID, o.Attempt}
		if other, twice := seen[key]; twice {
			p.add("item %s has two outcomes of attempt %d, at %s and %s", o.ID, o.Attempt, other, o.Position)
		}
		seen[key] = o.Position
		if o.SourceOffset < 0 {
			if o.Processed || o.Batch == nil {
				p.add("the outcome at %s has no source, and is no refusal at the door", o.Position)
			}
			continue
		}
		bySource[o.Source()] = o
		if w.Dead[o.Source()] {
			p.add("the record at %s is a dead letter and has an outcome at %s", o.Source(), o.Position)
		}
	}
	for i := range w.Items {
		it := &w.Items[i]
		o := bySource[it.Position]
		delete(bySource, it.Position)
		switch {
		case it.Misplaced && o != nil:
			p.add("the item at %s lies in a wrong partition and was judged there, outcome at %s", it.Position, o.Position)
		case it.Misplaced:
		case w.Dead[it.Position]:
			p.add("the item at %s can be read and is a dead letter", it.Position)
		case o == nil:
			p.add("the item at %s (tenant %s, id %s) has no outcome", it.Position, it.Tenant, it.ID)
		case o.ID != it.ID || o.Tenant != it.Tenant:
			p.add("the item at %s is %s of %s, its outcome at %s says %s of %s", it.Position, it.ID, it.Tenant, o.Position, o.ID, o.Tenant)
		case o.Event != nil && o.Event.Number != schemas.Number(it.Partition, it.Offset, w.Partitions):
			p.add("the event at %s got the number %d", it.Position, o.Event.Number)
		}
	}
	for source, o := range bySource {
		p.add("the outcome at %s is about %s, where no item lies", o.Position, source)
	}
}

// checkBatches: each header's items are there whole, and nothing claims to be of a batch without header.
func (w *World) checkBatches(p *problems) {
	p.begin("batches whole")
	parts := map[string][]int32{} // by batch key: indexes of items on their topics or refused at the door
	for i := range w.Items {
		if it := &w.Items[i]; it.Batch != "" && !it.Misplaced {
			parts[it.Batch] = append(parts[it.Batch], it.Index)
		}
	}
	for i := range w.Outcomes {
		if o := &w.Outcomes[i]; o.SourceOffset < 0 && o.Batch != nil {
			parts[*o.Batch] = append(parts[*o.Batch], o.Index)
		}
	}
	for i := range w.Batches {
		b := &w.Batches[i]
		indexes := parts[b.Key]
		delete(parts, b.Key)
		slices.Sort(indexes)
		if int(b.Items) != len(indexes) || slices.ContainsFunc(indexes, func(n int32) bool { return n < 0 || n >= b.Items }) || len(slices.Compact(indexes)) != int(b.Items) {
			p.add("the header at %s announces %d items, there are %d: %v", b.Position, b.Items, len(indexes), cut(indexes))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(parts)) {
		p.add("%d items are of the batch %s, which has no header", len(parts[key]), key)
	}
}

func cut[T any](s []T) []T { return s[:min(len(s), 20)] }

// checkForwarded: a record in a wrong partition was forwarded once, to the right one.
func (w *World) checkForwarded(p *problems) {
	p.begin("forwarded once")
	copies := map[Position]int{}
	for i := range w.Items {
		if it := &w.Items[i]; it.Origin != nil {
			copies[Position{it.Topic, it.Origin.Partition, it.Origin.Offset}]++
		}
	}
	for i := range w.Items {
		it := &w.Items[i]
		if it.Misplaced && copies[it.Position] != 1 {
			p.add("the item at %s lies in a wrong partition and was forwarded %d times", it.Position, copies[it.Position])
		}
		if it.Misplaced && it.Origin != nil {
			p.add("the item at %s was forwarded to a wrong partition", it.Position)
		}
		delete(copies, it.Position)
	}
	for at, n := range copies {
		p.add("%d records say that they come from %s, where nothing needed forwarding", n, at)
	}
}

// checkOwnership: the quantities of all outcomes, the changelog and the view are those of the model that takes each partition's items in the
// order of their offsets.
func (w *World) checkOwnership(p *problems) {
	p.begin("ownership as the model")
	bySource := map[Position]*Outcome{}
	for i := range w.Outcomes {
		if o := &w.Outcomes[i]; o.Ownership != nil {
			bySource[o.Source()] = o
		}
	}
	m := model{}
	versions := map[string]int64{}
	for i := range w.Items { // by partition and offset
		it := &w.Items[i]
		o := bySource[it.Position]
		if it.Ownership == nil || o == nil {
			continue // without an outcome of this kind it changed nothing
		}
		key, before, after := m.apply(it.Tenant, it.Ownership)
		version := schemas.Version(0, it.Offset)
		versions[key] = version
		if r := o.Ownership; r.PreviousQuantity != before || r.Quantity != after || r.Version != version {
			p.add("%q at %s: the model goes from %d to %d (version %d), the outcome at %s from %d to %d (version %d)",
				key, it.Position, before, after, version, o.Position, r.PreviousQuantity, r.Quantity, r.Version)
		}
	}
	p.begin("changelog as the model")
	for key, quantity := range m {
		if s, ok := w.State[key]; !ok || s.Quantity != quantity || s.Version != versions[key] {
			p.add("%q: the model has %d (version %d), the changelog %d (version %d)", key, quantity, versions[key], s.Quantity, s.Version)
		}
	}
	for key, s := range w.State {
		if _, ok := m[key]; !ok {
			p.add("%q: the model has nothing, the changelog %d", key, s.Quantity)
		}
	}
	p.begin("ownership_current as the model")
	for key, quantity := range m {
		if w.Ownership[key] != quantity {
			p.add("%q: the model has %d, the view %d", key, quantity, w.Ownership[key])
		}
	}
	for key, quantity := range w.Ownership {
		if _, ok := m[key]; !ok {
			p.add("%q: the model has nothing, the view %d", key, quantity)
		}
	}
}

// checkReferrals: nobody was referred twice.
func (w *World) checkReferrals(p *problems) {
	p.begin("referred once")
	seen := map[[2]string]Position{}
	for i := range w.Outcomes {
		o := &w.Outcomes[i]
		if o.Referral == nil {
			continue
		}
		who := [2]string{o.Tenant, schemas.Fold(o.Referral.ReferredID)}
		if other, twice := seen[who]; twice {
			p.add("participant %s of %s was referred at %s and at %s", who[1], who[0], other, o.Position)
		}
		seen[who] = o.Position
	}
}

// checkTables: each log table has one row for each committed record of its topics, and no other; as many distinct ids as a plain count.
func (w *World) checkTables(p *problems) {
	records := map[Position]Row{}
	for i := range w.Batches {
		b := &w.Batches[i]
		records[b.Position] = Row{b.Position, b.Tenant, b.Key}
	}
	for i := range w.Outcomes {
		o := &w.Outcomes[i]
		records[o.Position] = Row{o.Position, o.Tenant, o.ID}
	}
	for _, at := range w.DeadLetters {
		records[at] = Row{Position: at}
	}
	inTable := map[Position]string{}
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		p.begin("table " + table + " exact")
		ids := map[string]bool{}
		rows := 0
		for _, row := range w.Tables[table] {
			if !slices.Contains(tables[table], row.Topic) {
				if table != "dead_letters" { // the sink's own dead letters name the topic of the bad record
					p.add("a row comes from %s", row.Position)
				}
				continue
			}
			rows++
			ids[row.ID] = true
			want, ok := records[row.Position]
			switch {
			case !ok:
				p.add("a row comes from %s, where no committed record lies", row.Position)
			case inTable[row.Position] != "":
				p.add("the record at %s has two rows", row.Position)
			case table != "dead_letters" && (want.Tenant != row.Tenant || want.ID != row.ID):
				p.add("the row of %s is %s of %s, the record %s of %s", row.Position, row.ID, row.Tenant, want.ID, want.Tenant)
			}
			inTable[row.Position] = table
		}
		if table != "dead_letters" && len(ids) != rows { // no item is judged twice without a replay
			p.add("%d rows have %d distinct ids", rows, len(ids))
		}
	}
	p.begin("every record has its row")
	missing := []Position{}
	for at := range records {
		if inTable[at] == "" {
			missing = append(missing, at)
		}
	}
	slices.SortFunc(missing, func(a, b Position) int { return cmp.Or(comparePositions(a, b)) })
	for _, at := range missing {
		p.add("the record at %s is in no table", at)
	}
}
