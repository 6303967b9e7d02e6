package simulation

import (
	"errors"
	"time"
)

// transactions is Kafka's transaction coordinator. A transaction is decided at one moment; its markers reach the partitions, and the
// offsets in it the group, some time later.
type transactions struct {
	s     *sim
	group *group
	ids   map[string]*producer
	// decided is called when a transaction has been committed.
	decided func(*transaction)
	// misanswered says that a commit is applied and answered with an error.
	misanswered func() bool
}

// producer is what the coordinator knows of a transactional id.
type producer struct {
	epoch int
	open  *transaction
	last  int // transaction that was ended last
	// completing is how many markers of the last transaction are still to be written.
	completing int
}

// transaction is one of an engine.
type transaction struct {
	tx
	id       string
	number   int
	logs     []*plog
	requests map[*produceRequest]bool
	offsets  map[tp]int64
	outcomes []*judged
}

// produceRequest is what is written to one partition at once.
type produceRequest struct {
	log     *plog
	records []any
	offsets []int64
}

var (
	errConcurrent     = errors.New("CONCURRENT_TRANSACTIONS")
	errFencedProducer = errors.New("INVALID_PRODUCER_EPOCH")
	errServer         = errors.New("UNKNOWN_SERVER_ERROR")
)

func (c *transactions) producer(id string) *producer {
	p := c.ids[id]
	if p == nil {
		p = &producer{}
		c.ids[id] = p
	}
	return p
}

// initialize is InitProducerId: whoever had the id before is fenced, and its transaction aborted, before the new one gets an epoch.
func (c *transactions) initialize(id string, answer func(int, error)) {
	p := c.producer(id)
	if p.open != nil {
		p.epoch++
		c.end(p, false)
	}
	if p.completing > 0 {
		answer(0, errConcurrent)
		return
	}
	p.epoch++
	p.last = 0
	answer(p.epoch, nil)
}

// session is what a producer sends with each request: its transactional id, its epoch and which transaction it means. In Kafka each
// transaction has an epoch of its own (KIP-890), so that a late request cannot be taken for one of the next.
type session struct {
	id     string
	epoch  int
	number int
}

// transaction is the open transaction of a producer, or a new one.
func (c *transactions) transaction(by session) (*transaction, error) {
	p := c.producer(by.id)
	switch {
	case by.epoch != p.epoch, by.number <= p.last:
		return nil, errFencedProducer
	case p.completing > 0:
		return nil, errConcurrent
	case p.open == nil:
		x := &transaction{id: by.id, number: by.number, offsets: map[tp]int64{}, requests: map[*produceRequest]bool{}}
		p.open = x
		c.s.after(transactionTimeout, func() {
			if p.open == x {
				c.s.note("kafka", "times out", "the transaction of %s", x.id)
				p.epoch++
				c.end(p, false)
			}
		})
	}
	return p.open, nil
}

// produce writes to one partition, once however often the request comes.
func (c *transactions) produce(by session, r *produceRequest, answer func(struct{}, error)) {
	x, err := c.transaction(by)
	if err == nil && !x.requests[r] {
		x.requests[r] = true
		x.logs = append(x.logs, r.log)
		r.offsets = nil
		for _, v := range r.records {
			r.offsets = append(r.offsets, r.log.append(&x.tx, v))
			if j, ok := v.(*judged); ok {
				x.outcomes = append(x.outcomes, j)
			}
		}
	}
	answer(struct{}{}, err)
}

// commitOffsets is TxnOffsetCommit: it is fenced by the group's generation.
func (c *transactions) commitOffsets(by session, member string, generation int, fenced bool, at map[tp]int64, answer func(struct{}, error)) {
	if err := c.group.check(member, generation); err != nil && fenced {
		answer(struct{}{}, err)
		return
	}
	x, err := c.transaction(by)
	if err == nil {
		for n, offset := range at {
			if _, has := x.offsets[n]; !has {
				c.group.pending[n]++
			}
			x.offsets[n] = offset
		}
	}
	answer(struct{}{}, err)
}

// endTransaction is EndTxn.
func (c *transactions) endTransaction(by session, commits bool, answer func(struct{}, error)) {
	p := c.producer(by.id)
	switch {
	case by.epoch != p.epoch:
		answer(struct{}{}, errFencedProducer)
		return
	case by.number > p.last && p.open == nil:
		p.last = by.number // nothing was written
	case by.number > p.last:
		c.end(p, commits)
		if commits && c.misanswered() {
			answer(struct{}{}, errServer)
			return
		}
	}
	answer(struct{}{}, nil) // also to one who asks again
}

// end decides a transaction, and lets its markers follow.
func (c *transactions) end(p *producer, commits bool) {
	x := p.open
	p.open, p.last = nil, x.number
	x.over, x.committed = true, commits
	c.s.note("kafka", "decides", "transaction of %s: committed %t", x.id, commits)
	if commits {
		c.decided(x)
	}
	done := func() { p.completing-- }
	for _, l := range x.logs {
		p.completing++
		c.s.after(c.s.late(), func() { l.mark(&x.tx); done() })
	}
	if len(x.offsets) > 0 {
		p.completing++
		c.s.after(c.s.late(), func() {
			for n, offset := range x.offsets {
				c.group.pending[n]--
				if commits {
					c.group.commits[n] = commit{offset: offset}
				}
			}
			done()
		})
	}
}

// late is how long a marker is on its way.
func (s *sim) late() time.Duration {
	if s.faults && s.rng.IntN(20) == 0 {
		return s.between(0, 5*time.Second)
	}
	return s.between(0, 80*time.Millisecond)
}
