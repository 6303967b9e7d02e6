package processors

import (
	"bytes"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// attemptMemory is how long a replayed item is remembered, in the time of the records. `counterfoil replay` publishes no attempt a second
// time however late it comes; this covers the records that others produce, or put back.
const attemptMemory = 24 * time.Hour

// attempts is what is remembered of the replayed items of a partition: of each the last attempt that has an outcome. A replay whose attempt is
// not higher than that is dropped without an outcome, so that replaying twice is replaying once. An item that is not remembered has had its
// first attempt: there is no replay before that.
//
// All kinds share one changelog, in which each lane has the keys of its kind. A replay is judged in the partition of its key or, where its
// kind has none, or it has defects, in that of its identity: so it always meets the memory of those before it.
type attempts struct {
	*memory[schemas.Attempt] // by schemas.AttemptKey
	kind                     string
}

func newAttempts(l *lane) *attempts {
	decoder := schemas.NewDecoder[schemas.Attempt](l.s.p.deps.Registry, schemas.AttemptSchema)
	table := newStateTable(schemas.Attempts, l.partition, l.s.attempts, decoder)
	return &attempts{newMemory(table, attemptMemory, func(a *schemas.Attempt) time.Time { return a.At }), l.kind.name}
}

// restore takes over what is of the lane's kind.
func (a *attempts) restore(rec *kgo.Record) error {
	if !bytes.HasPrefix(rec.Key, schemas.AttemptKey(a.kind, "")) {
		return nil
	}
	return a.memory.restore(rec)
}

// done reports whether a replay must be dropped.
func (a *attempts) done(env *schemas.Envelope) bool {
	if env.First == nil {
		return false
	}
	last := a.get(schemas.AttemptKey(a.kind, env.First.ID))
	return last != nil && env.Attempt <= last.Attempt
}

// note remembers the outcome of a replay.
func (a *attempts) note(env *schemas.Envelope, at time.Time) {
	if env.First == nil {
		return
	}
	a.seen(at)
	a.remember(schemas.AttemptKey(a.kind, env.First.ID), &schemas.Attempt{Attempt: env.Attempt, At: at.UTC()})
}
