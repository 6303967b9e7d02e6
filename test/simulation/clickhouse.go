package simulation

import (
	"errors"
	"fmt"
	"time"
)

// clickhouse is the server: a clock that may be set, tables, and INSERTs at work. Every row that appears is checked at once, which makes
// the promise of each table hold at every step of a run.
type clickhouse struct {
	server
	s      *sim
	off    guards
	offset time.Duration // of its clock from the true time
	slow   time.Duration // until then INSERTs take long
	tables []*table
	// processes are the INSERTs at work, by their ids: system.processes.
	processes map[string]*query
	// granted says whether a copy got a lease to this limit.
	granted func(who string, limit time.Time) bool
}

// table is a log table.
type table struct {
	name    string
	rows    map[position]int           // how often
	highest map[tp]int64               // highest offset of each partition
	refuses time.Duration              // until then the table takes no rows
	wants   func(p tp, e *record) bool // what the table takes
}

type position struct {
	tp     tp
	offset int64
}

// record is a record of a log topic.
type record struct {
	bad bool // becomes a dead letter
	odd bool // some tables take only such
	tx  *tx
}

// query is an INSERT.
type query struct {
	id     string
	table  *table
	began  time.Duration // true time, as elapsed counts
	got    bool          // its block has arrived and passed the constraint
	killed bool
}

// row is one row of an INSERT.
type row struct {
	position
	record *record
}

var (
	errLate      = errors.New("469: constraint in_time is violated")
	errException = errors.New("exception")
)

// epoch is when runs begin.
var epoch = time.Unix(1_800_000_000, 0)

// clock is what the server takes for the time.
func (c *clickhouse) clock() time.Time { return epoch.Add(c.s.now + c.offset) }

// prepare begins an INSERT: the server waits for its block.
func (c *clickhouse) prepare(id string, t *table, receive time.Duration, answer func(struct{}, error)) {
	q := &query{id: id, table: t, began: c.s.now}
	c.processes[id] = q
	c.s.after(receive, func() {
		if !q.got {
			c.end(q) // receive_timeout
		}
	})
	answer(struct{}{}, nil)
}

func (c *clickhouse) end(q *query) {
	if c.processes[q.id] == q {
		delete(c.processes, q.id)
	}
}

// insert takes the block of an INSERT.
func (c *clickhouse) insert(who, id string, rows []row, limit time.Time, answer func(struct{}, error)) {
	s, q := c.s, c.processes[id]
	switch {
	case q == nil: // the connection was closed
		s.note("clickhouse", "insert", "%s: the connection is closed", id)
		answer(struct{}{}, errNoAnswer)
		return
	case q.table.refuses > s.now:
		c.end(q)
		answer(struct{}{}, errException)
		return
	case !c.off[checkInTable] && !limit.After(c.clock()):
		s.note("clickhouse", "insert", "%s: late", id)
		c.end(q)
		answer(struct{}{}, errLate)
		return
	}
	if !c.granted(who, limit) || !limit.After(c.clock()) {
		s.violate(leaseless, "%s: a block of %s with write_by %s is taken at %s", q.table.name, who, stamp(limit), stamp(c.clock()))
	}
	q.got = true
	s.note("clickhouse", "insert", "%s: taken", id)
	took := s.between(time.Millisecond, 80*time.Millisecond)
	fate := -1
	if s.faults {
		switch n := s.rng.IntN(100); {
		case c.slow > s.now && n < 70:
			took = s.between(time.Second, 18*time.Second)
		case n < 2:
			took = s.between(time.Second, 25*time.Second)
		case n < 6:
			took = s.between(time.Second, 4*time.Second)
		}
		fate = s.rng.IntN(100)
	}
	var apply func()
	apply = func() {
		switch {
		case c.processes[id] != q: // the server was restarted
			return
		case c.hung > s.now:
			s.after(c.hung-s.now+s.jitter(), apply)
			return
		case q.killed && s.chance(0.5), fate == 0:
			c.end(q)
			answer(struct{}{}, errException)
			return
		}
		c.apply(q, who, rows)
		s.after(s.jitter(), func() {
			c.end(q)
			switch fate {
			case 1, 2: // applied, and an error is answered
				answer(struct{}{}, errException)
			case 3, 4, 5: // applied, and the answer is lost
			default:
				answer(struct{}{}, nil)
			}
		})
	}
	s.after(took, apply)
}

func stamp(t time.Time) string { return fmt.Sprintf("%.6f", t.Sub(epoch).Seconds()) }

// apply makes the rows visible, all at once.
func (c *clickhouse) apply(q *query, who string, rows []row) {
	if c.s.traced {
		c.s.note("clickhouse", "visible", "%s of %s: %s", q.id, who, describe(rows))
	}
	for _, r := range rows {
		q.table.rows[r.position]++
		if q.table.rows[r.position] > 1 {
			c.s.violate(doubled, "%s has %d/%d twice", q.table.name, r.tp, r.offset)
		}
		if !r.record.tx.committed {
			c.s.violate(stranger, "%s has %d/%d, which was not committed", q.table.name, r.tp, r.offset)
		}
		if highest, ok := q.table.highest[r.tp]; !ok || r.offset > highest {
			q.table.highest[r.tp] = r.offset
		}
	}
}

func describe(rows []row) string {
	text := ""
	for i, r := range rows {
		if i == 20 {
			return text + "…"
		}
		text += fmt.Sprintf("%d/%d ", r.tp, r.offset)
	}
	return text
}

// restart loses what is at work and keeps what is visible.
func (c *clickhouse) restart(down time.Duration) {
	clear(c.processes)
	c.down = max(c.down, c.s.now+down)
}

// kill tells queries to end; they do so when they look.
func (c *clickhouse) kill(matches func(*query) bool) {
	for _, q := range c.processes {
		if matches(q) {
			q.killed = true
			if !q.got {
				c.end(q)
			}
		}
	}
}

// running counts the queries that match.
func (c *clickhouse) running(matches func(*query) bool) int {
	n := 0
	for _, q := range c.processes {
		if matches(q) {
			n++
		}
	}
	return n
}
