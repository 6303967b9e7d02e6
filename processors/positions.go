package processors

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// positions is how far a partition was judged, as it stands in the transaction of each round's outcomes.
//
// The group's committed position says the same, and is where the client begins to read. But Kafka's group coordinator keeps it in memory: after
// its broker was killed on a busy machine it has been seen to come back with what it had read of its log until then, without an error, and then
// to answer with positions from before, while the outcomes behind them are committed. Whatever lies below the last position here is not judged
// again.
//
// All kinds share one changelog, in which each lane has the key of its kind.
type positions struct {
	*stateTable[schemas.Position]
	l *lane
}

func newPositions(l *lane) *positions {
	decoder := schemas.NewDecoder[schemas.Position](l.s.p.deps.Registry, schemas.PositionSchema)
	return &positions{newStateTable(schemas.Positions, l.partition, l.s.positions, decoder), l}
}

// restore takes over what is of the lane's kind.
func (p *positions) restore(rec *kgo.Record) error {
	if string(rec.Key) != p.l.kind.name {
		return nil
	}
	return p.stateTable.restore(rec)
}

// note remembers how far the round has judged.
func (p *positions) note(next int64) {
	p.put([]byte(p.l.kind.name), &schemas.Position{Epoch: p.l.epoch, Offset: next})
}

// judged is the last position; -1: there is none in the item topic's present life.
func (p *positions) judged() int64 {
	if at := p.get([]byte(p.l.kind.name)); at != nil && at.Epoch == p.l.epoch {
		return at.Offset
	}
	return -1
}
