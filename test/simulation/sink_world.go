package simulation

import (
	"fmt"
	"slices"
	"time"
)

// sinkWorld is a run of the sink: copies of it, Kafka with a few log topics, ClickHouse, and what goes wrong.
type sinkWorld struct {
	s     *sim
	off   guards
	kafka *server
	group *group
	ch    *clickhouse
	logs  []*plog // by tp
	grown *signal // one of logs has

	copies  []*sink
	started int
	ids     int
	static  bool

	grants        map[grant]bool
	flushRows     int
	flushInterval time.Duration
	expected      int // rows, once everything is produced
	healing       bool
}

// grant is a lease that a copy got.
type grant struct {
	who   string
	limit time.Time
}

// Partitions: topicA has two and feeds three tables, topicB has two and feeds two of them, as the topics of matched and unmatched sales do.
const topicB = tp(2)

func (w *sinkWorld) tablesOf(n tp) []*table {
	if n < topicB {
		return w.ch.tables
	}
	return w.ch.tables[1:]
}

func (w *sinkWorld) unique() int {
	w.ids++
	return w.ids
}

// runSink plays one seed.
func runSink(seed uint64, off guards, traced bool) *sim {
	s := newSim(seed, traced)
	w := &sinkWorld{s: s, off: off, kafka: &server{name: "kafka"}, grown: &signal{}, grants: map[grant]bool{}}
	w.flushRows = 3 + s.rng.IntN(40)
	w.flushInterval = s.between(100*time.Millisecond, time.Second)
	w.static = s.chance(0.3)
	for range 4 {
		w.logs = append(w.logs, &plog{grown: w.grown})
	}
	w.group = newGroup(s, w.kafka, len(w.logs), s.between(2*time.Second, 10*time.Second), 30*time.Second)
	for n := range w.group.commits {
		w.group.commits[n].metadata = released // as migrate commits them
	}
	w.ch = &clickhouse{
		server: server{name: "clickhouse"}, s: s, off: off, processes: map[string]*query{},
		granted: func(who string, limit time.Time) bool { return w.grants[grant{who, limit}] },
	}
	good := func(_ tp, r *record) bool { return !r.bad }
	newTable := func(name string, wants func(tp, *record) bool) {
		w.ch.tables = append(w.ch.tables, &table{name: name, rows: map[position]int{}, highest: map[tp]int64{}, wants: wants})
	}
	newTable("a", good)
	newTable("b", func(n tp, r *record) bool { return !r.bad && (n >= topicB || r.odd) })
	newTable("dead", func(_ tp, r *record) bool { return r.bad })
	for range 1 + s.rng.IntN(3) {
		w.start(len(w.copies))
	}
	s.faults = true
	end := s.between(15*time.Second, 60*time.Second)
	w.produce(end)
	s.after(s.between(0, 8*time.Second), func() { w.harm(w.plagues(), end) })
	s.after(end, w.heal)
	s.run(6*time.Hour, w.done)
	if s.wrong == nil {
		w.check()
	}
	return s
}

// start starts a copy.
func (w *sinkWorld) start(i int) {
	w.started++
	k := &sink{w: w, s: w.s, off: w.off, p: &proc{name: fmt.Sprintf("sink-%d.%d", i, w.started)}}
	if w.static {
		k.instance = fmt.Sprint("sink-", i)
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

// restart starts a copy anew in the place of one that has ended.
func (w *sinkWorld) restart(i int, k *sink) {
	w.s.after(w.s.between(100*time.Millisecond, 15*time.Second), func() {
		if w.copies[i] == k {
			w.start(i)
		}
	})
}

// produce plans transactions and records without any, and returns when all of them are.
func (w *sinkWorld) produce(end time.Duration) {
	s := w.s
	plain := &tx{committed: true, over: true}
	for range 10 + s.rng.IntN(30) {
		at := s.between(0, end)
		if s.chance(0.2) {
			s.after(at, func() {
				for n := range w.logs {
					for range s.rng.IntN(3) {
						w.logs[n].append(nil, w.record(plain))
					}
				}
			})
			continue
		}
		x := &tx{}
		commits := s.chance(0.8)
		rounds := 1 + s.rng.IntN(3)
		lasts := s.between(0, 3*time.Second)
		for i := range rounds {
			s.after(at+lasts*time.Duration(i)/time.Duration(rounds), func() {
				for n := range w.logs {
					if s.chance(0.6) {
						for range s.rng.IntN(6) {
							w.logs[n].append(x, w.record(x))
							if s.chance(0.05) {
								w.logs[n].skip(1 + s.rng.Int64N(3))
							}
						}
					}
				}
			})
		}
		s.after(at+lasts, func() { x.committed, x.over = commits, true })
		for n := range w.logs {
			s.after(at+lasts+s.between(0, 100*time.Millisecond), func() { w.logs[n].mark(x) })
		}
	}
}

func (w *sinkWorld) record(x *tx) *record {
	return &record{bad: w.s.chance(0.1), odd: w.s.chance(0.5), tx: x}
}

// sinkSteps are where a process may stand still or die.
var sinkSteps = []string{
	"JoinGroup", "joined", "OffsetFetch", "Heartbeat", "polled",
	"before ask", "ask", "before insert", "begun", "before prepare", "INSERT", "before send", "block", "after send", "system.processes",
	"before commit", "now", "clock read", "commit made", "OffsetCommit", "before release", "LeaveGroup",
}

// sinkRequests are what may be held up on the way.
var sinkRequests = []string{"block", "block", "block", "block", "INSERT", "OffsetCommit", "JoinGroup", "OffsetFetch", "now", "ask"}

func (w *sinkWorld) plagues() *plagues {
	s := w.s
	victim := func() *sink { return w.copies[s.rng.IntN(len(w.copies))] }
	kill := func(p *proc) {
		s.note(p.name, "KILLED", "")
		p.dead = true
		for i, k := range w.copies {
			if k.p == p {
				w.restart(i, k)
			}
		}
	}
	c := s.plagues(sinkSteps, sinkRequests, kill, func() *proc { return victim().p })
	c.add(func() {
		k := victim()
		s.note(k.p.name, "SIGTERM", "")
		k.ending = true
		if k.session != nil {
			k.session.changed.give()
			w.grown.give()
		}
	})
	c.add(func() {
		if len(w.copies) < 4 {
			w.start(len(w.copies))
		}
	})
	c.add(func() {
		w.ch.hung = s.now + s.pause()/4
		s.note("clickhouse", "HANGS", "until %s", w.ch.hung)
	})
	c.add(func() {
		w.ch.slow = s.now + s.between(time.Second, 20*time.Second)
		s.note("clickhouse", "SLOW", "until %s", w.ch.slow)
	})
	c.add(func() {
		s.note("clickhouse", "RESTART", "")
		w.ch.restart(s.between(0, 10*time.Second))
	})
	c.add(func() {
		t := w.ch.tables[s.rng.IntN(len(w.ch.tables))]
		t.refuses = s.now + s.between(time.Second, 30*time.Second)
		s.note("clickhouse", "REFUSES", "table %s until %s", t.name, t.refuses)
	})
	c.add(func() {
		w.kafka.hung = s.now + s.between(0, 12*time.Second)
		s.note("kafka", "HANGS", "until %s", w.kafka.hung)
	})
	set := func() {
		before := w.ch.offset
		w.ch.offset = []time.Duration{-time.Hour, 0, time.Hour}[s.rng.IntN(3)]
		s.note("clickhouse", "CLOCK", "is %s off", w.ch.offset)
		if s.chance(0.5) { // and put right
			s.after(s.between(0, 12*time.Second), func() {
				w.ch.offset = before
				s.note("clickhouse", "CLOCK", "is %s off", w.ch.offset)
			})
		}
	}
	if s.chance(0.2) {
		c.kinds = append(c.kinds, set, set)
	}
	return c
}

// harm lets one thing go wrong after the other.
func (w *sinkWorld) harm(c *plagues, end time.Duration) {
	s := w.s
	if s.now >= end || len(c.kinds) == 0 {
		return
	}
	c.kinds[s.rng.IntN(len(c.kinds))]()
	s.after(s.between(0, 7*time.Second), func() { w.harm(c, end) })
}

// heal ends all faults but those that last: who stands still does so until its time.
func (w *sinkWorld) heal() {
	s := w.s
	s.note("", "HEALED", "")
	s.faults, s.armed, w.healing = false, nil, true
	w.ch.hung, w.ch.down, w.kafka.hung, w.kafka.down = 0, 0, 0, 0
	for _, t := range w.ch.tables {
		t.refuses = 0
	}
	if s.chance(0.5) {
		w.ch.offset = 0
	}
}

// settle counts the rows that there must be once every transaction is over.
func (w *sinkWorld) settle() bool {
	if w.expected > 0 {
		return true
	}
	for _, l := range w.logs {
		if len(l.open) > 0 {
			return false
		}
	}
	for n, l := range w.logs {
		for _, e := range l.entries {
			if r, ok := e.value.(*record); ok && r.tx.committed {
				for _, t := range w.tablesOf(tp(n)) {
					if t.wants(tp(n), r) {
						w.expected++
					}
				}
			}
		}
	}
	return true
}

// done reports whether a healed run has come to rest: every row is there, every position is committed, and nobody stands still any more.
func (w *sinkWorld) done() bool {
	if !w.healing || !w.settle() || slices.ContainsFunc(w.copies, func(k *sink) bool { return k.p.stopped > w.s.now }) {
		return false
	}
	for n, l := range w.logs {
		if len(l.entries) > 0 && w.group.commits[n].offset <= l.entries[len(l.entries)-1].offset {
			return false
		}
	}
	return true
}

// check looks for what is missing; that nothing is doubled is looked at whenever rows appear.
func (w *sinkWorld) check() {
	for n, l := range w.logs {
		for _, e := range l.entries {
			r, ok := e.value.(*record)
			if !ok {
				continue
			}
			for _, t := range w.tablesOf(tp(n)) {
				want := 0
				if r.tx.committed && t.wants(tp(n), r) {
					want = 1
				}
				if got := t.rows[position{tp(n), e.offset}]; got != want {
					w.s.violate(missing, "%s has %d/%d %d times, not %d", t.name, n, e.offset, got, want)
				}
			}
		}
	}
}
