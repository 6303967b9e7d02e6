package simulation

import (
	"fmt"
	"slices"
	"time"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// engineWorld is a run of the engine: copies of it, Kafka with an item topic, its changelog and outcomes and a reference topic, and what goes
// wrong.
type engineWorld struct {
	s            *sim
	kafka        *server
	group        *group
	transactions *transactions
	items        []*plog // by tp, as are the two below
	changelogs   []*plog
	outcomes     []*plog
	references   *plog
	grown        *signal // some log has, or an engine has something else to do

	off     guards
	copies  []*engine
	started int
	static  bool
	healing bool
	// unblocked lets callbacks come in the middle of a round, as if the client were not asked to hold them back (BlockRebalanceOnPoll).
	unblocked bool

	acknowledged int     // references
	all          []*sent // in the order in which they were sent
	model        map[string]*modelState
}

// modelState is what the sequential model has of a key.
type modelState struct {
	state *schemas.OwnershipState
	last  int64 // offset of the item judged last
	tp    tp
}

// itemPartitions is how many partitions the item topic has.
const itemPartitions = 3

// end is the high watermark of a log, or the mutation's answer: the end of what is committed.
func (w *engineWorld) end(l *plog, stable bool) int64 {
	if stable {
		return l.stable()
	}
	return l.next
}

// runEngine plays one seed.
func runEngine(seed uint64, off guards, traced bool) *sim {
	s := newSim(seed, traced)
	w := &engineWorld{s: s, off: off, kafka: &server{name: "kafka"}, grown: &signal{}, model: map[string]*modelState{}}
	for range itemPartitions {
		w.items = append(w.items, &plog{grown: w.grown})
		w.changelogs = append(w.changelogs, &plog{grown: w.grown})
		w.outcomes = append(w.outcomes, &plog{grown: &signal{}})
	}
	w.references = &plog{grown: w.grown}
	w.static, w.unblocked = s.chance(0.3), s.chance(0.3)
	w.group = newGroup(s, w.kafka, itemPartitions, s.between(2*time.Second, 10*time.Second), 10*time.Second)
	w.transactions = &transactions{s: s, group: w.group, ids: map[string]*producer{}, decided: w.decided, misanswered: func() bool { return s.faults && s.chance(0.03) }}
	for range 1 + s.rng.IntN(3) {
		w.start(len(w.copies))
	}
	s.faults = true
	end := s.between(10*time.Second, 40*time.Second)
	w.produce(end)
	s.after(s.between(0, 5*time.Second), func() { w.harm(w.plagues(), end) })
	s.after(end, w.heal)
	s.run(6*time.Hour, w.done)
	if s.wrong == nil {
		w.check()
	}
	return s
}

func (w *engineWorld) start(i int) {
	w.started++
	k := &engine{w: w, s: w.s, off: w.off, p: &proc{name: fmt.Sprintf("process-%d.%d", i, w.started)}}
	k.id = k.p.name
	if w.static {
		k.instance = fmt.Sprint("process-", i)
		k.id = k.instance
	}
	k.gone = func() { w.restart(i, k) }
	if i == len(w.copies) {
		w.copies = append(w.copies, k)
	} else {
		w.copies[i] = k
	}
	w.s.note(k.p.name, "starts", "")
	w.s.spawn(k.p, "run", k.run)
}

func (w *engineWorld) restart(i int, k *engine) {
	w.s.after(w.s.between(100*time.Millisecond, 10*time.Second), func() {
		if w.copies[i] == k {
			w.start(i)
		}
	})
}

// produce plans transactions of references, and of items, which know what references were acknowledged when they were sent.
func (w *engineWorld) produce(end time.Duration) {
	s := w.s
	for range 3 + s.rng.IntN(10) {
		s.after(s.between(0, end), func() {
			x := &tx{}
			n := 1 + s.rng.IntN(2)
			for range n {
				w.references.append(x, "reference")
			}
			s.after(s.between(0, 100*time.Millisecond), func() {
				x.over, x.committed = true, s.chance(0.8)
				if x.committed {
					s.after(s.jitter(), func() {
						w.acknowledged += n
						if s.chance(0.7) {
							w.send(1 + s.rng.IntN(3)) // right after
						}
					})
				}
				s.after(s.late(), func() { w.references.mark(x) })
			})
		})
	}
	for range 5 + s.rng.IntN(20) {
		s.after(s.between(0, end), func() { w.send(1 + s.rng.IntN(12)) })
	}
}

// send sends items, in a transaction or without one, some to a partition where they do not belong.
func (w *engineWorld) send(n int) {
	s := w.s
	var x *tx
	sure := &tx{committed: true, over: true}
	if s.chance(0.7) {
		x, sure = &tx{}, nil
	}
	touched := map[tp]bool{}
	for range n {
		user, sku := fmt.Sprint("user", s.rng.IntN(5)), "sku"
		value := &schemas.Ownership{UserName: &user, ProductSKU: &sku}
		switch s.rng.IntN(6) {
		case 0:
			value.HasProduct = new(bool)
		case 1:
			by := -1 - s.rng.Int64N(3)
			value.IncreaseQuantityBy = &by
		}
		it := &item{value: value, key: upserts.Key(tenant, value)}
		it.right = tp(schemas.Partition(it.key, itemPartitions))
		at := it.right
		if s.chance(0.1) {
			at = tp(s.rng.IntN(itemPartitions))
		}
		it.sent = &sent{known: w.acknowledged, tx: x}
		if x == nil {
			it.sent.tx = sure
		}
		it.sent.at = position{at, w.items[at].append(x, it)}
		w.all = append(w.all, it.sent)
		touched[at] = true
	}
	if x == nil {
		return
	}
	s.after(s.between(0, time.Second), func() {
		x.over, x.committed = true, s.chance(0.8)
		for at := range tp(itemPartitions) {
			if touched[at] {
				s.after(s.late(), func() { w.items[at].mark(x) })
			}
		}
	})
}

// decided looks at the outcomes of a transaction when it is committed: what the promises say holds at every step.
func (w *engineWorld) decided(x *transaction) {
	for _, j := range x.outcomes {
		s := j.item.sent
		if s.at != j.id {
			w.s.violate(stranger, "an outcome of %v, which is no item", j.id)
			return
		}
		if !s.tx.committed {
			w.s.violate(stranger, "an outcome of %v, which was not committed", j.id)
		}
		if s.outcomes++; s.outcomes > 1 {
			w.s.violate(doubled, "%v has two outcomes", j.id)
		}
		if j.seen < s.known {
			w.s.violate(blind, "%v was judged with %d references, %d were acknowledged before it was sent", j.id, j.seen, s.known)
		}
		key := string(j.item.key)
		m := w.model[key]
		if m == nil {
			m = &modelState{last: -1, tp: j.at.tp}
			w.model[key] = m
		}
		if m.tp != j.at.tp || j.at.offset <= m.last {
			w.s.violate(disorder, "%v is judged at %v, after %d/%d of the same key", j.id, j.at, m.tp, m.last)
		}
		head, next := upserts.Decide(j.item.value, m.state, schemas.Version(0, j.at.offset))
		previous := int64(0)
		if m.state != nil {
			previous = m.state.Version
		}
		if head.Quantity != j.head.Quantity || head.PreviousQuantity != j.head.PreviousQuantity || head.Version != j.head.Version || previous != j.previous {
			w.s.violate(disorder, "%v: quantity %d after %d of version %d, the model has %d after %d of version %d",
				j.id, j.head.Quantity, j.head.PreviousQuantity, j.previous, head.Quantity, head.PreviousQuantity, previous)
		}
		m.state, m.last = next, j.at.offset
	}
}

// engineSteps are where a process may stand still or die, engineRequests what may be held up.
var (
	engineSteps = []string{
		"JoinGroup", "joined", "OffsetFetch", "InitProducerId", "Heartbeat", "polled", "ListOffsets", "judge", "Produce", "Produce", "before TxnOffsetCommit",
		"TxnOffsetCommit", "EndTxn", "EndTxn", "restore", "references read", "LeaveGroup",
	}
	engineRequests = []string{"EndTxn", "EndTxn", "TxnOffsetCommit", "Produce", "JoinGroup", "OffsetFetch", "ListOffsets", "InitProducerId", "Heartbeat"}
)

func (w *engineWorld) plagues() *plagues {
	s := w.s
	victim := func() *engine { return w.copies[s.rng.IntN(len(w.copies))] }
	kill := func(p *proc) {
		s.note(p.name, "KILLED", "")
		p.dead = true
		for i, k := range w.copies {
			if k.p == p {
				w.restart(i, k)
			}
		}
	}
	c := s.plagues(engineSteps, engineRequests, kill, func() *proc { return victim().p })
	c.add(func() {
		k := victim()
		s.note(k.p.name, "SIGTERM", "")
		k.ending = true
		w.grown.give()
	})
	c.add(func() {
		if len(w.copies) < 4 {
			w.start(len(w.copies))
		}
	})
	c.add(func() {
		w.kafka.hung = s.now + s.between(0, 12*time.Second)
		s.note("kafka", "HANGS", "until %s", w.kafka.hung)
	})
	return c
}

func (w *engineWorld) harm(c *plagues, end time.Duration) {
	if w.s.now < end && len(c.kinds) > 0 {
		c.kinds[w.s.rng.IntN(len(c.kinds))]()
		w.s.after(w.s.between(0, 6*time.Second), func() { w.harm(c, end) })
	}
}

func (w *engineWorld) heal() {
	w.s.note("", "HEALED", "")
	w.s.faults, w.s.armed, w.healing = false, nil, true
	w.kafka.hung, w.kafka.down = 0, 0
}

// done reports whether a healed run has come to rest.
func (w *engineWorld) done() bool {
	if !w.healing || slices.ContainsFunc(w.copies, func(k *engine) bool { return k.p.stopped > w.s.now }) {
		return false
	}
	for n, l := range w.items {
		if len(l.open) > 0 || len(l.entries) > 0 && w.group.commits[n].offset <= l.entries[len(l.entries)-1].offset {
			return false
		}
	}
	return true
}

// check looks for items without an outcome.
func (w *engineWorld) check() {
	for _, s := range w.all {
		if s.tx.committed && s.outcomes != 1 {
			w.s.violate(missing, "%v has %d outcomes", s.at, s.outcomes)
		}
	}
}
