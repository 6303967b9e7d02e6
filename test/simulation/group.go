package simulation

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// tp is a partition of the topics that a group reads, numbered through.
type tp int

// Answers of the group's coordinator.
var (
	errUnknownMember     = errors.New("UNKNOWN_MEMBER_ID")
	errIllegalGeneration = errors.New("ILLEGAL_GENERATION")
	errRebalance         = errors.New("REBALANCE_IN_PROGRESS")
	errFencedInstance    = errors.New("FENCED_INSTANCE_ID")
	errUnstable          = errors.New("UNSTABLE_OFFSET_COMMIT")
)

// group is the coordinator of a consumer group (classic protocol, cooperative balancing), with the commits of its members.
type group struct {
	s          *sim
	kafka      *server
	partitions int
	session    time.Duration
	rebalance  time.Duration

	generation int
	preparing  bool
	deadline   time.Duration // of the rebalance
	names      int
	members    map[string]*member
	instances  map[string]string // instance → member id
	fenced     map[string]bool   // member ids whose instance has another now

	commits []commit // by tp
	// pending is how many transactions have offsets of a partition that are neither committed nor aborted yet.
	pending []int
	// committed is told of each commit of a member that was taken.
	committed func(p *proc, at map[tp]commit)
}

// commit is a committed position.
type commit struct {
	offset   int64
	metadata string
	until    time.Time // of the lease; in the metadata of the real thing
}

// member is what the coordinator knows of one.
type member struct {
	id, instance string
	seen         time.Duration // last sign of life
	owns         []tp          // as it says itself
	ownsSince    int           // generation of owns
	assigned     []tp
	answer       func(joined, error) // of the JoinGroup that waits
}

// joined is the answer to a JoinGroup.
type joined struct {
	member     string
	generation int
	assigned   []tp
}

func newGroup(s *sim, kafka *server, partitions int, session, rebalance time.Duration) *group {
	return &group{
		s: s, kafka: kafka, partitions: partitions, session: session, rebalance: rebalance,
		members: map[string]*member{}, instances: map[string]string{}, fenced: map[string]bool{},
		commits: make([]commit, partitions), pending: make([]int, partitions),
		committed: func(*proc, map[tp]commit) {},
	}
}

// join takes a JoinGroup. Joining and the hand-out of the assignment (SyncGroup) are one step here.
func (g *group) join(id, instance string, owns []tp, generation int, answer func(joined, error)) {
	m := g.members[id]
	switch {
	case id != "" && g.fenced[id]:
		answer(joined{}, errFencedInstance)
		return
	case id != "" && m == nil:
		answer(joined{}, errUnknownMember)
		return
	case m == nil:
		g.names++
		m = &member{id: fmt.Sprint("m", g.names), instance: instance}
		if old := g.members[g.instances[instance]]; instance != "" && old != nil {
			// A static member that comes back takes its own place.
			delete(g.members, old.id)
			g.fenced[old.id] = true
			if old.answer != nil {
				old.answer(joined{}, errFencedInstance)
			}
			m.assigned = old.assigned
			if !g.preparing {
				g.add(m)
				answer(joined{m.id, g.generation, m.assigned}, nil)
				if g.orphans() {
					g.prepare()
				}
				return
			}
		}
		g.add(m)
	}
	m.seen = g.s.now
	m.owns, m.ownsSince, m.answer = owns, generation, answer
	g.prepare()
	g.complete()
}

// orphans reports whether nobody has some partition. That is so when a static member was killed between giving it up and joining again: it
// comes back without a rebalance, and Kafka waits for the next one. Here one begins at once; how long nothing happens is not the question.
func (g *group) orphans() bool {
	n := 0
	for _, m := range g.members {
		n += len(m.assigned)
	}
	return n < g.partitions
}

func (g *group) add(m *member) {
	g.members[m.id] = m
	if m.instance != "" {
		g.instances[m.instance] = m.id
	}
	m.seen = g.s.now
	g.watch(m)
}

// watch expels the member when it has not been heard of for the session timeout.
func (g *group) watch(m *member) {
	g.s.after(m.seen+g.session-g.s.now, func() {
		switch {
		case g.members[m.id] != m:
		case m.answer != nil: // it waits for us
			m.seen = g.s.now
			g.watch(m)
		case g.s.now >= m.seen+g.session:
			g.s.note("kafka", "expels", "%s %s", m.id, m.instance)
			g.remove(m)
		default:
			g.watch(m)
		}
	})
}

func (g *group) remove(m *member) {
	delete(g.members, m.id)
	if g.instances[m.instance] == m.id {
		delete(g.instances, m.instance)
	}
	if m.answer != nil {
		m.answer(joined{}, errUnknownMember)
	}
	if len(g.members) > 0 {
		g.prepare()
		g.complete()
	}
}

// prepare begins a rebalance.
func (g *group) prepare() {
	if g.preparing {
		return
	}
	g.preparing, g.deadline = true, g.s.now+g.rebalance
	deadline := g.deadline
	g.s.after(g.rebalance, func() {
		if !g.preparing || g.deadline != deadline {
			return
		}
		for _, m := range g.sorted() {
			if m.answer == nil && m.instance == "" {
				g.s.note("kafka", "expels", "%s, which does not join", m.id)
				delete(g.members, m.id)
			}
		}
		g.finish() // without the static members that have not joined: they stay, with what they claimed when they last did
	})
}

func (g *group) sorted() []*member {
	return slices.SortedFunc(maps.Values(g.members), func(a, b *member) int { return cmp.Compare(a.id, b.id) })
}

// complete ends the rebalance when all have joined.
func (g *group) complete() {
	all := g.sorted()
	if !g.preparing || len(all) == 0 || slices.ContainsFunc(all, func(m *member) bool { return m.answer == nil }) {
		return
	}
	g.finish()
}

func (g *group) finish() {
	all := g.sorted()
	g.preparing = false
	if len(all) == 0 {
		return
	}
	g.generation++
	g.balance(all)
	for _, m := range all {
		answer := m.answer
		if answer == nil {
			continue
		}
		m.answer, m.seen = nil, g.s.now
		g.s.note("kafka", "assigns", "%s %s: %v, generation %d", m.id, m.instance, m.assigned, g.generation)
		answer(joined{m.id, g.generation, m.assigned}, nil)
	}
}

// balance hands partitions out, as evenly as it goes and to whom had them; what another one still has is handed out when it has given it up
// (cooperative balancing). Of two who say that they own a partition the one of the later generation does.
func (g *group) balance(all []*member) {
	holder := make([]*member, g.partitions)
	for _, m := range all {
		m.assigned = nil
		for _, p := range m.owns {
			if h := holder[p]; h == nil || h.ownsSince < m.ownsSince {
				holder[p] = m
			}
		}
	}
	most := (g.partitions + len(all) - 1) / len(all)
	wanted := make([]*member, g.partitions)
	count := map[*member]int{}
	for p, h := range holder {
		if h != nil && count[h] < most {
			wanted[p] = h
			count[h]++
		}
	}
	from := g.s.rng.IntN(len(all))
	for p := range wanted {
		if wanted[p] != nil {
			continue
		}
		for i := range all {
			if m := all[(from+i)%len(all)]; count[m] < most {
				wanted[p] = m
				count[m]++
				break
			}
		}
	}
	for p, m := range wanted {
		if holder[p] == nil || holder[p] == m {
			m.assigned = append(m.assigned, tp(p))
		}
	}
}

// check is what the coordinator looks at in every request of a member. It does not look at who owns what.
func (g *group) check(id string, generation int) error {
	m := g.members[id]
	switch {
	case g.fenced[id]:
		return errFencedInstance
	case m == nil:
		return errUnknownMember
	case generation != g.generation:
		return errIllegalGeneration
	}
	m.seen = g.s.now
	return nil
}

func (g *group) heartbeat(id string, generation int, answer func(struct{}, error)) {
	err := g.check(id, generation)
	if err == nil && g.preparing {
		err = errRebalance
	}
	answer(struct{}{}, err)
}

func (g *group) leave(id string, answer func(struct{}, error)) {
	if m := g.members[id]; m != nil {
		g.remove(m)
	}
	answer(struct{}{}, nil)
}

// commitOffsets takes an OffsetCommit.
func (g *group) commitOffsets(p *proc, id string, generation int, at map[tp]commit, answer func(struct{}, error)) {
	err := g.check(id, generation)
	if err == nil {
		for n, c := range at {
			g.commits[n] = c
		}
		g.committed(p, at)
	}
	answer(struct{}{}, err)
}

// fetchOffsets answers an OffsetFetch. With stable it is refused while a transaction that has offsets of the partitions is not over.
func (g *group) fetchOffsets(of []tp, stable bool, answer func(map[tp]commit, error)) {
	at := map[tp]commit{}
	for _, n := range of {
		if stable && g.pending[n] > 0 {
			answer(nil, errUnstable)
			return
		}
		at[n] = g.commits[n]
	}
	answer(at, nil)
}

// client is what Kafka's client (franz-go) keeps of a membership, and its loop.
type client struct {
	s        *sim
	g        *group
	p        *proc
	instance string

	member     string
	generation int
	owned      []tp
	position   map[tp]int64 // where it reads on; absent: not known yet
	paused     map[tp]bool  // not fetched
	// rebalancing is held by the callbacks, and by whoever polls until it has done with what it got (BlockRebalanceOnPoll).
	rebalancing lock
	waiting     int    // callbacks that wait for it: they come first
	blocked     func() // a callback waits for it; may be nil
	unblocked   bool   // callbacks come at any moment

	assigned, revoked, lost func(t *task, parts []tp)
	fatal                   func(err error)
	fetched                 func(n tp, offset int64) // a committed position; may be nil
	unstable                bool                     // positions are taken while transactions are pending

	news   signal // the heartbeat has been answered with an error, or the client ends
	beat   error
	closed bool
	ended  bool // the loop has ended
	over   signal
}

// start joins the group and stays in it until close.
func (c *client) start() {
	c.position, c.paused = map[tp]int64{}, map[tp]bool{}
	c.s.spawn(c.p, "group", c.manage)
	c.s.spawn(c.p, "heartbeat", c.heartbeats)
}

func (c *client) manage(t *task) {
	for !c.closed {
		if !c.join(t) {
			c.until(t, 100*time.Millisecond)
			continue
		}
		for !c.closed && c.beat == nil {
			t.wait(&c.news, 0)
		}
		switch {
		case c.closed, errors.Is(c.beat, errRebalance): // joins again and keeps what it has
		case errors.Is(c.beat, errFencedInstance):
			c.fatal(c.beat)
			c.closed = true
		default:
			if c.generation = -1; errors.Is(c.beat, errUnknownMember) {
				c.member = ""
			}
			c.block(t)
			had := c.owned
			c.owned = nil
			c.forget(had)
			c.lost(t, had)
			c.unblock()
		}
	}
	c.ended = true
	c.over.give()
}

// until sleeps unless the client ends.
func (c *client) until(t *task, d time.Duration) {
	for end := t.s.now + d; !c.closed && t.s.now < end; {
		t.wait(&c.news, end-t.s.now)
	}
}

// join joins and tells what has changed; false: it has to be tried again.
func (c *client) join(t *task) bool {
	id, instance, owns, generation := c.member, c.instance, c.owned, c.generation
	got, err := call(t, c.g.kafka, "JoinGroup", c.g.rebalance+c.g.session, nil, func(answer func(joined, error)) {
		c.g.join(id, instance, owns, generation, answer)
	})
	switch {
	case errors.Is(err, errUnknownMember):
		// The client forgets its id and joins again, and nobody is told: the partitions that it had it believes to have still.
		c.member = ""
		return false
	case errors.Is(err, errFencedInstance):
		c.fatal(err)
		c.closed = true
		return false
	case err != nil:
		return false
	}
	c.member, c.generation, c.beat = got.member, got.generation, nil
	t.step("joined")
	var added, gone []tp
	for _, p := range got.assigned {
		if !slices.Contains(c.owned, p) {
			added = append(added, p)
		}
	}
	for _, p := range c.owned {
		if !slices.Contains(got.assigned, p) {
			gone = append(gone, p)
		}
	}
	c.block(t)
	c.owned = got.assigned
	c.forget(gone)
	c.forget(added)
	if len(gone) > 0 {
		c.revoked(t, gone)
	}
	c.assigned(t, added)
	c.unblock()
	c.fetchPositions(t, added)
	if len(gone) > 0 && c.beat == nil {
		c.beat = errRebalance // joins again at once, so that others get what was given up
	}
	return true
}

// forget drops positions: those of partitions that are assigned come from the group's commits.
func (c *client) forget(parts []tp) {
	for _, p := range parts {
		delete(c.position, p)
	}
}

func (c *client) fetchPositions(t *task, added []tp) {
	for len(added) > 0 && !c.closed {
		at, err := call(t, c.g.kafka, "OffsetFetch", 5*time.Second, nil, func(answer func(map[tp]commit, error)) {
			c.g.fetchOffsets(added, !c.unstable, answer)
		})
		if err == nil {
			for p, commit := range at {
				c.position[p] = commit.offset
				if c.fetched != nil {
					c.fetched(p, commit.offset)
				}
			}
			return
		}
		if c.beat != nil && !errors.Is(c.beat, errRebalance) {
			return
		}
		t.sleep(100 * time.Millisecond)
	}
}

// block waits until nobody polls. Before that nothing changes of what the client believes to own.
func (c *client) block(t *task) {
	if c.unblocked {
		return
	}
	if c.rebalancing.held && c.blocked != nil {
		c.blocked()
	}
	c.waiting++
	t.lock(&c.rebalancing)
	c.waiting--
}

// poll holds callbacks up until the lock is given back.
func (c *client) poll(t *task) {
	for c.waiting > 0 {
		t.wait(&c.rebalancing.free, 0)
	}
	t.lock(&c.rebalancing)
}

func (c *client) unblock() {
	if !c.unblocked {
		c.rebalancing.unlock()
	}
}

// heartbeats go on while callbacks run.
func (c *client) heartbeats(t *task) {
	for !c.closed {
		c.until(t, c.g.session*3/10)
		if c.member == "" || c.generation <= 0 || c.beat != nil || c.closed {
			continue
		}
		t.step("heartbeat")
		id, generation := c.member, c.generation
		_, err := call(t, c.g.kafka, "Heartbeat", c.g.session, nil, func(answer func(struct{}, error)) { c.g.heartbeat(id, generation, answer) })
		switch {
		case err == nil, c.beat != nil, id != c.member, generation != c.generation:
		case errors.Is(err, errRebalance), errors.Is(err, errIllegalGeneration), errors.Is(err, errUnknownMember), errors.Is(err, errFencedInstance):
			c.beat = err
			c.news.give()
		}
	}
}

// close leaves the group, unless the member is static, and ends the loop.
func (c *client) close(t *task) {
	c.closed = true
	c.news.give()
	if id := c.member; id != "" && c.instance == "" {
		_, _ = call(t, c.g.kafka, "LeaveGroup", 2*time.Second, nil, func(answer func(struct{}, error)) { c.g.leave(id, answer) })
	}
}
