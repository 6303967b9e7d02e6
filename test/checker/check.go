package checker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
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

// Check returns every promise that was broken to those who sent all this.
func (w *World) Check(sent []Sent) []string {
	p := &problems{}
	w.checkOutcomes(p)
	w.checkAttempts(p)
	w.checkBatches(p)
	w.checkStatus(p)
	w.checkForwarded(p)
	w.checkOwnership(p)
	w.checkReferrals(p)
	w.checkSales(p)
	w.checkMatches(p, sent)
	w.checkTransactions(p)
	w.checkRecords(p)
	w.checkFacts(p)
	w.checkRequests(p)
	w.checkTables(p)
	w.checkSent(p, sent)
	return p.all
}

// attempt identifies an outcome.
type attempt struct {
	id string
	n  int32
}

// checkOutcomes: every item that lies where it belongs has exactly one outcome, which names its position, unless it is a replay whose attempt,
// or a later one, has one; every outcome belongs to such an item, or to one that was decided at the door; every dead record has no outcome;
// none failed by our fault.
func (w *World) checkOutcomes(p *problems) {
	p.begin("one outcome each")
	seen := map[attempt]*Outcome{}
	bySource := map[Position]*Outcome{}
	last := map[string]int32{} // attempt at each item that has an outcome
	for i := range w.Outcomes {
		o := &w.Outcomes[i]
		last[o.ID] = max(last[o.ID], o.Attempt)
		key := attempt{o.ID, o.Attempt}
		if other, twice := seen[key]; twice {
			p.add("item %s has two outcomes of attempt %d, at %s, judged %s where it lies at %s, and at %s, judged %s where it lies at %s", o.ID, o.Attempt,
				other.Position, other.JudgedAt.Format(time.RFC3339Nano), other.Source(), o.Position, o.JudgedAt.Format(time.RFC3339Nano), o.Source())
		}
		seen[key] = o
		if slices.ContainsFunc(o.Reasons, func(r schemas.Reason) bool { return r.Code == schemas.CodeInternalError }) {
			p.add("the outcome at %s is an internal error", o.Position)
		}
		if o.SourceOffset < 0 {
			if o.Processed && o.Reference == nil || o.Batch == nil {
				p.add("the outcome at %s has no source, and was not decided at the door", o.Position)
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
		case w.Dead[it.Position] && last[it.ID] > it.Attempt: // it could not be read then, and was replayed
		case w.Dead[it.Position]:
			p.add("the item at %s can be read and is a dead letter", it.Position)
		case o == nil && it.Attempt > 1 && last[it.ID] >= it.Attempt:
		case o == nil:
			p.add("the item at %s (tenant %s, id %s, attempt %d) has no outcome", it.Position, it.Tenant, it.ID, it.Attempt)
		case o.ID != it.ID || o.Tenant != it.Tenant || o.Attempt != it.Attempt:
			p.add("the item at %s is %s of %s, attempt %d; its outcome at %s says %s of %s, attempt %d", it.Position, it.ID, it.Tenant, it.Attempt, o.Position, o.ID, o.Tenant, o.Attempt)
		case o.Event != nil && o.Event.Number != schemas.Number(it.Partition, it.Offset, w.Partitions):
			p.add("the event at %s got the number %d", it.Position, o.Event.Number)
		}
	}
	for source, o := range bySource {
		p.add("the outcome at %s is about %s, where no item lies", o.Position, source)
	}
}

// checkAttempts: attempts at an item are judged in their order, all of one partition but the first; nothing follows a processed one; and the
// last replay that has an outcome is remembered. No run lasts so long that one is forgotten.
func (w *World) checkAttempts(p *problems) {
	p.begin("attempts in order")
	byItem := map[string][]*Outcome{}
	for i := range w.Outcomes {
		byItem[w.Outcomes[i].ID] = append(byItem[w.Outcomes[i].ID], &w.Outcomes[i])
	}
	model := map[string]int32{}
	for _, id := range slices.Sorted(maps.Keys(byItem)) {
		all := byItem[id]
		slices.SortFunc(all, func(a, b *Outcome) int { return cmp.Compare(a.Attempt, b.Attempt) })
		for i, o := range all[1:] {
			switch before := all[i]; {
			case before.Attempt == o.Attempt: // see checkOutcomes
			case before.Processed:
				p.add("item %s was processed at %s and has a later attempt at %s", id, before.Position, o.Position)
			case before.Attempt > 1 && (o.SourcePartition != before.SourcePartition || o.SourceOffset <= before.SourceOffset):
				p.add("item %s: attempt %d was judged at %s, after attempt %d at %s", id, before.Attempt, before.Source(), o.Attempt, o.Source())
			}
			if !o.AcceptedAt.Equal(all[0].AcceptedAt) {
				p.add("item %s was accepted at %s by attempt %d, and at %s by attempt %d", id, all[0].AcceptedAt, all[0].Attempt, o.AcceptedAt, o.Attempt)
			}
		}
		if o := all[len(all)-1]; o.Attempt > 1 {
			model[string(schemas.AttemptKey(o.SourceTopic, id))] = o.Attempt
		}
	}
	p.begin("attempts remembered")
	shown := map[string]int32{}
	for key, a := range w.Attempts {
		shown[key] = a.Attempt
	}
	compare(p, model, shown)
}

// checkBatches: each header's items are there whole, and nothing claims to be of a batch without header.
func (w *World) checkBatches(p *problems) {
	p.begin("batches whole")
	parts := map[string][]int32{} // by batch key: indexes of items on their topics or refused at the door
	for i := range w.Items {
		if it := &w.Items[i]; it.Batch != "" && !it.Misplaced && it.Attempt == 1 {
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

// checkStatus: the view says of each batch that it is complete, with as many processed and unprocessed items as the last attempts at its items
// have outcomes.
func (w *World) checkStatus(p *problems) {
	p.begin("batch_status as the outcomes")
	model := map[string]StatusNow{}
	for i := range w.Batches {
		model[w.Batches[i].Key] = StatusNow{Status: schemas.BatchComplete}
	}
	last := map[string]int32{}
	for i := range w.Outcomes {
		last[w.Outcomes[i].ID] = max(last[w.Outcomes[i].ID], w.Outcomes[i].Attempt)
	}
	for i := range w.Outcomes {
		o := &w.Outcomes[i]
		if o.Batch == nil || o.Attempt < last[o.ID] {
			continue
		}
		now := model[*o.Batch]
		if o.Processed {
			now.Processed++
		} else {
			now.Unprocessed++
		}
		model[*o.Batch] = now
	}
	compare(p, model, w.Status)
}

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
		if it.Misplaced && copies[it.Position] != 1 && !w.Dead[it.Position] {
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

// checkReferrals: nobody was referred twice, and nobody is told so who was not referred before, by an item that comes earlier in the partition.
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
	bySource := w.outcomesOf(schemas.KindReferrals)
	referred := map[[3]string]bool{} // by id and by number
	for i := range w.Items {         // by partition and offset
		it := &w.Items[i]
		o := bySource[it.Position]
		switch {
		case it.Referral == nil || o == nil:
		case o.Referral != nil:
			referred[[3]string{it.Tenant, "id", schemas.Fold(o.Referral.ReferredID)}] = true
			referred[[3]string{it.Tenant, "number", o.Referral.ReferredNumber}] = true
		case slices.ContainsFunc(o.Reasons, func(r schemas.Reason) bool { return r.Code == schemas.CodeAlreadyReferred }):
			who := [3]string{it.Tenant, "number", ""}
			if id := it.Referral.Referred.ID; id != nil {
				who = [3]string{it.Tenant, "id", schemas.Fold(*id)}
			} else {
				who[2] = *it.Referral.Referred.Number
			}
			if !referred[who] {
				p.add("the referral at %s says that the participant of %s %s was referred before, the outcome at %s, and nothing before it did", it.Position, who[1], who[2], o.Position)
			}
		}
	}
}

// checkSales: of each sale the outcomes' versions grow in the order of its partition, and sales_current has the last one, matched or not. A
// replay has the version of the sale's place, and stands where no later sale of its id does.
func (w *World) checkSales(p *problems) {
	p.begin("sales as the model")
	bySource := w.outcomesOf(schemas.KindSales)
	alone := map[string]int64{} // versions of the first attempts of sales without ids, which their replays keep
	for i := range w.Items {
		it := &w.Items[i]
		if o := bySource[it.Position]; it.Sale != nil && it.First == nil && (it.Sale.ID == nil || *it.Sale.ID == "") && o != nil && (o.Sale != nil || o.Unmatched != nil) {
			alone[it.ID] = schemas.Version(0, it.Offset)
		}
	}
	model, attempts, firsts := map[string]SaleNow{}, map[string]int32{}, map[string]int64{}
	for i := range w.Items { // by partition and offset: replays may come before first attempts, of sales without ids
		it := &w.Items[i]
		o := bySource[it.Position]
		if it.Sale == nil || o == nil {
			continue
		}
		key, now := it.ID, SaleNow{Version: schemas.Version(0, it.Offset), ID: it.ID}
		if it.First != nil {
			now.Version = it.First.Version()
		}
		if it.Sale.ID != nil && *it.Sale.ID != "" {
			key = *it.Sale.ID
		}
		if it.Sale.Value != nil {
			now.Value = *it.Sale.Value
		}
		var gotKey string
		var gotVersion int64
		switch {
		case o.Sale != nil:
			now.CallID, gotKey, gotVersion = o.Sale.CallID, o.Sale.SaleKey, o.Sale.Version
		case o.Unmatched != nil:
			gotKey, gotVersion = o.Unmatched.SaleKey, o.Unmatched.Version
		case matching.Check(it.Sale) == nil:
			p.add("the sale at %s is good, and the outcome at %s is neither a match nor an unmatched sale", it.Position, o.Position)
			continue
		default:
			continue
		}
		if gotKey != key || gotVersion != now.Version {
			p.add("the sale at %s is %q of version %d, the outcome at %s says %q of version %d", it.Position, key, now.Version, o.Position, gotKey, gotVersion)
		}
		key = it.Tenant + "\x00" + key
		if first, ok := alone[it.ID]; ok && it.First != nil && gotVersion != first {
			p.add("the sale at %s has no id, and version %d at its first attempt; the outcome at %s says version %d", it.Position, first, o.Position, gotVersion)
		}
		if it.First == nil {
			if before, ok := firsts[key]; ok && now.Version <= before {
				p.add("%q: version %d at %s comes after version %d", key, now.Version, it.Position, before)
			}
			firsts[key] = now.Version
		}
		before, ok := model[key]
		if c := cmp.Compare(now.Version, before.Version); !ok || c > 0 || c == 0 && it.Attempt > attempts[key] {
			model[key], attempts[key] = now, it.Attempt
		}
	}
	p.begin("sales_current as the model")
	compare(p, model, w.Sales)
}

// outcomesOf are the outcomes of a kind's items by the items' positions.
func (w *World) outcomesOf(kind string) map[Position]*Outcome {
	all := map[Position]*Outcome{}
	for i := range w.Outcomes {
		if o := &w.Outcomes[i]; o.SourceTopic == kind && o.SourceOffset >= 0 {
			all[o.Source()] = o
		}
	}
	return all
}

// compare says where what the model has and what is shown differ.
func compare[T comparable](p *problems, model, shown map[string]T) {
	for _, key := range slices.Sorted(maps.Keys(model)) {
		if got, ok := shown[key]; !ok {
			p.add("%q: the model has %+v, the view nothing", key, model[key])
		} else if got != model[key] {
			p.add("%q: the model has %+v, the view %+v", key, model[key], got)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(shown)) {
		if _, ok := model[key]; !ok {
			p.add("%q: the model has nothing, the view %+v", key, shown[key])
		}
	}
}

// checkMatches: a sale is matched where a call of its window was in Kafka before the sale was, and to no worse a call. Calls of which two
// versions differ in what sales are matched by, or that were deleted, prove nothing and are left out, and so are sales that were matched to
// one of them. A call that came in the same millisecond as the sale, or after it, may have been seen and need not have been. Where the time of a
// call is its producer's, it may have come long after: then it was there for certain when its sender was told so.
func (w *World) checkMatches(p *problems, sent []Sent) {
	p.begin("sales matched")
	came := w.arrivals(sent)
	type tracked struct {
		*schemas.Call
		at      Position
		tenant  string
		number  string
		came    time.Time
		changed bool
	}
	calls := map[string]*tracked{} // by tenant/own id
	for i := range w.Records {
		r := &w.Records[i]
		if r.Topic != schemas.Calls {
			continue
		}
		key := r.Tenant + "/" + r.OwnID
		c := calls[key]
		switch {
		case r.Call == nil && c == nil:
			calls[key] = &tracked{Call: &schemas.Call{}, changed: true}
		case r.Call == nil:
			c.changed = true
		case c == nil:
			c = &tracked{Call: r.Call, at: r.Position, tenant: r.Tenant, came: came(r)}
			if r.Call.CallerNumber != nil {
				c.number = schemas.PhoneKey(*r.Call.CallerNumber)
			}
			calls[key] = c
		default:
			c.changed = c.changed || !c.StartedAt.Equal(r.Call.StartedAt) || text(c.MHID) != text(r.Call.MHID) || text(c.CallerNumber) != text(r.Call.CallerNumber)
			if at := came(r); at.Before(c.came) {
				c.came, c.at = at, r.Position
			}
		}
	}
	byMHID, byNumber := map[string][]*tracked{}, map[string][]*tracked{}
	for _, c := range calls {
		if c.changed {
			continue
		}
		if c.MHID != nil && *c.MHID != "" {
			byMHID[c.tenant+"/"+*c.MHID] = append(byMHID[c.tenant+"/"+*c.MHID], c)
		}
		if c.number != "" {
			byNumber[c.tenant+"/"+c.number] = append(byNumber[c.tenant+"/"+c.number], c)
		}
	}
	bySource := w.outcomesOf(schemas.KindSales)
	for i := range w.Items {
		it := &w.Items[i]
		o := bySource[it.Position]
		if it.Sale == nil || o == nil || o.Sale == nil && o.Unmatched == nil || matching.Check(it.Sale) != nil {
			continue
		}
		from, until := matching.Window(it.Sale)
		best := func(all []*tracked, than *tracked) *tracked {
			for _, c := range all {
				if c.came.Before(it.Appended) && !c.StartedAt.Before(from) && c.StartedAt.Before(until) && (than == nil || c.StartedAt.After(than.StartedAt)) {
					than = c
				}
			}
			return than
		}
		mhid := best(byMHID[it.Tenant+"/"+*it.Sale.MHID], nil)
		var number *tracked
		numbers := map[string]bool{}
		for _, sent := range *it.Sale.CLIs {
			if key := schemas.PhoneKey(sent); key != "" {
				numbers[key] = true
				number = best(byNumber[it.Tenant+"/"+key], number)
			}
		}
		if o.Sale == nil {
			if mhid != nil || number != nil {
				c := cmp.Or(mhid, number)
				p.add("the sale at %s of %s has a call in its window that was there before it, %s at %s since %s, and is unmatched at %s",
					it.Position, it.Appended.Format(time.RFC3339Nano), c.ID, c.at, c.came.Format(time.RFC3339Nano), o.Position)
			}
			continue
		}
		c := calls[it.Tenant+"/"+o.Sale.CallID]
		shares := c != nil && (o.Sale.Rule == schemas.RuleMHID && text(c.MHID) == text(it.Sale.MHID) || o.Sale.Rule == schemas.RuleCLI && numbers[c.number])
		switch {
		case c == nil:
			p.add("the sale at %s was matched to the call %q, which is not there", it.Position, o.Sale.CallID)
		case c.changed:
		case !shares:
			p.add("the sale at %s was matched by %s to the call %q, which does not share it", it.Position, o.Sale.Rule, o.Sale.CallID)
		case c.StartedAt.Before(from) || !c.StartedAt.Before(until):
			p.add("the sale at %s was matched to the call %q of %s, outside its window", it.Position, o.Sale.CallID, c.StartedAt)
		case o.Sale.Rule == schemas.RuleMHID && mhid != nil && c.StartedAt.Before(mhid.StartedAt),
			o.Sale.Rule == schemas.RuleCLI && (mhid != nil || number != nil && c.StartedAt.Before(number.StartedAt)):
			p.add("the sale at %s was matched to the call %q, while a better one was there before it", it.Position, o.Sale.CallID)
		}
	}
}

// arrivals tells of a record of a fact topic when it was there for certain; of one of which nobody knows, that it was long after everything else.
func (w *World) arrivals(sent []Sent) func(*Record) time.Time {
	told := map[string]time.Time{} // by marker
	for _, s := range sent {
		if s.Verdict == harness.Accepted && !s.Told.IsZero() {
			told[s.Marker] = s.Told
		}
	}
	markers := map[place]string{}
	for i := range w.Outcomes {
		if o := &w.Outcomes[i]; o.Reference != nil && o.Batch != nil {
			markers[place{o.Reference.Kind, *o.Batch, o.Index}] = o.Marker
		}
	}
	never := time.Unix(1<<40, 0)
	return func(r *Record) time.Time {
		if !r.Producers {
			return r.Appended
		}
		marker := r.Marker
		if r.Batch != "" {
			marker = markers[place{r.Topic, r.Batch, r.Index}]
		}
		if at, ok := told[marker]; ok {
			return at
		}
		return never
	}
}

// place is where in a batch a record came.
type place struct {
	topic, batch string
	index        int32
}

// checkTransactions: of the transactions with one natural key transactions_current shows the one that was accepted last, and all that have no
// id of their own.
func (w *World) checkTransactions(p *problems) {
	p.begin("transactions_current as the model")
	bySource := w.outcomesOf(schemas.KindTransactions)
	model := map[string]*Outcome{}
	for i := range w.Items {
		it := &w.Items[i]
		o := bySource[it.Position]
		if it.Transaction == nil || o == nil || !o.Processed {
			continue
		}
		key := it.ID
		if t := it.Transaction; t.TransactionID != nil && *t.TransactionID != "" {
			number, at := "none", "none"
			if t.BeeNumberCustomer != nil {
				number = t.BeeNumberCustomer.String()
			}
			if t.TransactionTime != nil {
				at = t.TransactionTime.UTC().Format(time.RFC3339Nano)
			}
			key = fmt.Sprintf("%q of %s: %s, %s, %s", *t.TransactionID, it.Tenant, number, text(t.TransactionBillSeq), at)
		}
		before := model[key]
		if before == nil || cmp.Or(before.AcceptedAt.Compare(o.AcceptedAt), cmp.Compare(before.SourceOffset, o.SourceOffset), cmp.Compare(before.SourcePartition, o.SourcePartition)) < 0 {
			model[key] = o
		}
	}
	last := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(model)) {
		o := model[key]
		last[o.ID] = true
		if !w.Transactions[o.ID] {
			p.add("the last transaction %s is item %s, which the view does not show", key, o.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.Transactions)) {
		if !last[id] {
			p.add("the view shows item %s, which is not the last of its transaction", id)
		}
	}
}

// checkRecords: what came through the API for fact and reference topics lies there and has its outcome; what can be read is no dead letter. The
// latter have no more than their last record of an id, since they are compacted.
func (w *World) checkRecords(p *problems) {
	p.begin("records of the API")
	outcomes := map[place]*Outcome{}
	for i := range w.Outcomes {
		o := &w.Outcomes[i]
		if o.Reference == nil || o.Batch == nil {
			continue
		}
		at := place{o.Reference.Kind, *o.Batch, o.Index}
		if other := outcomes[at]; other != nil {
			p.add("item %d of batch %s has outcomes at %s and %s", at.index, at.batch, other.Position, o.Position)
		}
		outcomes[at] = o
	}
	latest := map[string]Position{} // a dead letter that could not be read then was replayed, or is superseded
	came := map[string]int64{}
	for i := range w.Records {
		r := &w.Records[i]
		key, version := r.Topic+"/"+r.Tenant+"/"+r.OwnID, schemas.FactVersion(r.Appended, r.Offset)
		if at, ok := came[key]; !ok || version >= at {
			came[key], latest[key] = version, r.Position
		}
	}
	there := map[place]Position{}
	for i := range w.Records {
		r := &w.Records[i]
		topic, _ := schemas.TopicNamed(r.Topic)
		// The values of references are not read here.
		if latest := latest[r.Topic+"/"+r.Tenant+"/"+r.OwnID]; topic.Role == schemas.RoleFact && w.Dead[r.Position] && latest == r.Position {
			p.add("the record at %s can be read and is a dead letter", r.Position)
		}
		if r.Batch == "" {
			continue
		}
		at := place{r.Topic, r.Batch, r.Index}
		if other, twice := there[at]; twice {
			p.add("item %d of batch %s lies at %s and at %s", at.index, at.batch, other, r.Position)
		}
		there[at] = r.Position
		switch o := outcomes[at]; {
		case o == nil:
			p.add("the record at %s is of the batch %s and has no outcome", r.Position, r.Batch)
		case o.Tenant != r.Tenant || o.Reference.OwnID != r.OwnID:
			p.add("the record at %s is %s of %s, its outcome at %s says %s of %s", r.Position, r.OwnID, r.Tenant, o.Position, o.Reference.OwnID, o.Tenant)
		}
	}
	for at, o := range outcomes {
		topic, _ := schemas.TopicNamed(at.topic)
		if _, ok := there[at]; !ok && topic.Role == schemas.RoleFact {
			p.add("the outcome at %s says that item %d of batch %s is in %s, and it is not", o.Position, at.index, at.batch, at.topic)
		}
	}
}

// checkFacts: each view shows of every own id the record that the broker took last, however often and wherever it was sent, and no id
// whose last record is a deletion. Of records of one millisecond in two partitions, at the same offset, either may be the last.
func (w *World) checkFacts(p *problems) {
	last := map[string]map[string][]FactNow{} // by topic and tenant/own id; those of the highest version
	for i := range w.Records {
		r := &w.Records[i]
		if topic, _ := schemas.TopicNamed(r.Topic); topic.Role != schemas.RoleFact {
			continue
		}
		if last[r.Topic] == nil {
			last[r.Topic] = map[string][]FactNow{}
		}
		key, now := r.Tenant+"/"+r.OwnID, FactNow{schemas.FactVersion(r.Appended, r.Offset), r.Text}
		switch before := last[r.Topic][key]; {
		case len(before) == 0 || before[0].Version < now.Version:
			last[r.Topic][key] = []FactNow{now}
		case before[0].Version == now.Version:
			last[r.Topic][key] = append(before, now)
		}
	}
	for _, topic := range schemas.Topics() {
		if topic.Role != schemas.RoleFact {
			continue
		}
		p.begin(topic.Name + " as sent last")
		model, shown := last[topic.Name], w.Facts[topic.Name]
		for _, key := range slices.Sorted(maps.Keys(model)) {
			switch got, ok := shown[key]; {
			case !ok && !slices.ContainsFunc(model[key], func(f FactNow) bool { return f.Text == "" }):
				p.add("%q: the topic's last is %+v, the view has nothing", key, model[key])
			case ok && !slices.Contains(model[key], got):
				p.add("%q: the topic's last is %+v, the view has %+v", key, model[key], got)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(shown)) {
			if _, ok := model[key]; !ok {
				p.add("%q: the topic has nothing, the view %+v", key, shown[key])
			}
		}
	}
}

// checkRequests: of the requests with one idempotency key the first is passed on, and no other, unless that is one of them; each is told
// so, once; and the first is remembered. No run lasts so long that a key is forgotten.
func (w *World) checkRequests(p *problems) {
	p.begin("one effect for each idempotency key")
	headers := map[string]*Batch{}
	for i := range w.Batches {
		headers[w.Batches[i].Key] = &w.Batches[i]
	}
	answers := map[string][]*Answer{}
	for i := range w.Answers {
		a := &w.Answers[i]
		answers[a.Batch] = append(answers[a.Batch], a)
	}
	first := map[string]*Request{}
	for i := range w.Requests { // by partition and offset
		r := &w.Requests[i]
		if r.Partition != schemas.Partition([]byte(r.Key), w.Partitions) {
			p.add("the request at %s with the key %q lies in a wrong partition", r.Position, r.Key)
		}
		verdict := schemas.RequestAccepted
		switch f := first[r.Key]; {
		case f == nil:
			first[r.Key] = r
		case f.BodyHash == r.BodyHash:
			verdict = schemas.RequestRepeated
		default:
			verdict = schemas.RequestConflict
		}
		var number int64
		f := first[r.Key]
		header := headers[f.Batch]
		if header == nil {
			p.add("the request at %s is the first with the key %q and was not passed on", f.Position, r.Key)
		} else {
			number = schemas.BatchNumber(header.Offset)
		}
		if f != r && headers[r.Batch] != nil {
			p.add("the request at %s was passed on, and so was that at %s before it, with the same key %q", r.Position, f.Position, r.Key)
		}
		switch told := answers[r.Batch]; {
		case len(told) != 1:
			p.add("the request at %s has %d answers", r.Position, len(told))
		case told[0].Verdict != verdict || told[0].First != f.Batch || told[0].Number != number:
			p.add("the request at %s is %s, the first batch %s of number %d; the answer at %s says %s, %s of number %d",
				r.Position, verdict, f.Batch, number, told[0].Position, told[0].Verdict, told[0].First, told[0].Number)
		}
		delete(answers, r.Batch)
	}
	for _, batch := range slices.Sorted(maps.Keys(answers)) {
		p.add("the answer at %s is about the batch %s, of which there is no request", answers[batch][0].Position, batch)
	}
	p.begin("keys remembered")
	model, shown := map[string]string{}, map[string]string{}
	for key, r := range first {
		model[key] = r.Batch
	}
	for key := range w.Remembered {
		shown[key] = w.Remembered[key].Batch
	}
	compare(p, model, shown)
}

// checkTables: each log table has one row for each committed record of its topics that belongs there, and no other; as many distinct ids as a
// plain count.
func (w *World) checkTables(p *problems) {
	records := map[string]map[Position]Row{}
	add := func(table string, r Row) {
		if records[table] == nil {
			records[table] = map[Position]Row{}
		}
		records[table][r.Position] = r
	}
	for i := range w.Batches {
		b := &w.Batches[i]
		add("batches", Row{b.Position, b.Tenant, b.Key, 0})
	}
	for i := range w.Outcomes {
		o := &w.Outcomes[i]
		row := Row{o.Position, o.Tenant, o.ID, o.Attempt}
		if o.Processed {
			topic, _ := schemas.TopicNamed(o.Topic)
			add(topic.Kind, row)
			continue
		}
		add("unprocessed", row)
		if o.Unmatched != nil {
			add(schemas.KindSales, row)
		}
	}
	for _, at := range w.DeadLetters {
		add("dead_letters", Row{Position: at})
	}
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		p.begin("table " + table + " exact")
		ids, have := map[attempt]bool{}, map[Position]bool{}
		for _, row := range w.Tables[table] {
			if !slices.Contains(tables[table], row.Topic) {
				if table != "dead_letters" { // the sink's own dead letters name the topic of the bad record
					p.add("a row comes from %s", row.Position)
				}
				continue
			}
			ids[attempt{row.ID, row.Attempt}] = true
			want, ok := records[table][row.Position]
			switch {
			case !ok:
				p.add("a row comes from %s, where no committed record for it lies", row.Position)
			case have[row.Position]:
				p.add("the record at %s has two rows", row.Position)
			case table != "dead_letters" && (want.Tenant != row.Tenant || want.ID != row.ID || want.Attempt != row.Attempt):
				p.add("the row of %s is %s of %s, attempt %d, the record %s of %s, attempt %d", row.Position, row.ID, row.Tenant, row.Attempt, want.ID, want.Tenant, want.Attempt)
			}
			have[row.Position] = true
		}
		if table != "dead_letters" && len(ids) < len(have) { // no attempt is judged twice
			p.add("the rows of %d records have %d distinct ids and attempts", len(have), len(ids))
		}
		for _, at := range slices.SortedFunc(maps.Keys(records[table]), comparePositions) {
			if !have[at] {
				p.add("the record at %s has no row", at)
			}
		}
	}
}
