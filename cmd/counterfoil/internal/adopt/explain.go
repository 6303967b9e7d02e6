package adopt

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// explain says in sentences what a topic's new life, or the loss of what ClickHouse had of it, means.
func (f *finder) explain(ctx context.Context, t *Topic) error {
	topic, _ := schemas.TopicNamed(t.Name)
	say := func(format string, args ...any) { t.Means = append(t.Means, fmt.Sprintf(format, args...)) }
	if t.State == StateUnknown {
		f.explainRefill(t, topic, say)
		return nil
	}
	if table := tableOf(t.Name); table != "" {
		rows, err := f.Conn.CountRowsOf(ctx, table, t.Name, t.From)
		if err != nil {
			return err
		}
		say("ClickHouse keeps what it has of the earlier life: %d rows of %s.", rows, table)
	}
	switch topic.Role {
	case schemas.RoleBatches:
		say("Headers that the sink had not written are lost: the numbers of these batches are not found any more. New batches are numbered from %d on.", t.Base+1)
	case schemas.RoleItem:
		say("Items that were accepted and not judged yet are lost: whoever sent them must send them again. Batches that they belong to are never complete.")
		if t.Base > 0 {
			say("New items are numbered from %d on.", t.Base+1)
		}
	case schemas.RoleProcessed, schemas.RoleUnprocessed:
		say("Outcomes that the sink had not written are lost, though the items were judged: no caller and no table will have them. " +
			"What was accepted before can no longer be proven: counterfoil audit needs --since with a later time.")
	case schemas.RoleState:
		say("%s", stateLoss(t.Name))
	case schemas.RoleReference:
		if t.Name == schemas.APIKeys {
			say("No key works any more: counterfoil keys create makes others.")
			break
		}
		say("Its records must be sent again; until then, items that name one are unprocessed as not found. The view %s goes on to show what it had of an own id until a record of it comes.", t.Name)
	case schemas.RoleFact:
		say("Records that the sink had not written are lost: send them again, which replaces what is there already. What ClickHouse has stays.")
	case schemas.RoleRequests:
		say("Requests with an Idempotency-Key that were not passed on yet are lost. Their callers have no answer, and may send them again with the same key.")
	case schemas.RoleAnswers:
		say("Callers that wait for the answer to a request with an Idempotency-Key get none, and may send it again with the same key.")
	case schemas.RoleDeadLetters:
		say("Dead letters that the sink had not written are lost, and with them the records that they keep, where those are gone as well.")
	}
	return nil
}

func stateLoss(topic string) string {
	switch topic {
	case schemas.StateTopic(schemas.KindOwnership):
		return "What everybody owns is forgotten: a key's next change begins at quantity 0, without date and source. The view ownership_current goes on to show what was there until that change comes."
	case schemas.StateTopic(schemas.KindReferrals):
		return "Who was referred is forgotten: a participant can be referred a second time."
	case schemas.StateTopic(schemas.Requests):
		return "Idempotency keys are forgotten: a request that is repeated with its key is taken for a new one, and has its effect a second time. One that was passed on in part stays so."
	default:
		return "Which replays were judged is forgotten: one that is still on its way twice is judged twice."
	}
}

// explainRefill is about a topic that ClickHouse must fill its tables from again.
func (f *finder) explainRefill(t *Topic, topic schemas.Topic, say func(string, ...any)) {
	var gone []string
	var records int64
	for p, start := range f.starts[t.Name] {
		records += f.ends[t.Name][p] - start
		if start > 0 && topic.Config["cleanup.policy"] != "compact" {
			gone = append(gone, fmt.Sprintf("those of partition %d below offset %d", p, start))
		}
	}
	if slices.Contains(clickhouse.Topics(), t.Name) {
		say("At most %d records are written to ClickHouse again.", records)
		if len(gone) > 0 {
			say("Kafka no longer has %s: they are lost.", strings.Join(gone, ", "))
		}
	}
	if topic.Role == schemas.RoleBatches && len(f.commits[schemas.GroupSink][t.Name]) == 0 {
		say("The sink's commits are gone as well, which say what numbers begin after: they are taken to be those of the topic's first life.")
	}
}

// pendingTime bounds a count that goes through all outcomes.
const pendingTime = 20 * time.Second

// countPending counts the items that will be missed, where some may be.
func (f *finder) countPending(ctx context.Context) error {
	if f.empty() || !slices.ContainsFunc(f.plan.Topics, func(t Topic) bool {
		topic, _ := schemas.TopicNamed(t.Name)
		return t.State != StateUnknown && slices.Contains([]schemas.Role{schemas.RoleItem, schemas.RoleProcessed, schemas.RoleUnprocessed, schemas.RoleRequests}, topic.Role)
	}) {
		return nil
	}
	bound, cancel := context.WithTimeout(ctx, pendingTime)
	defer cancel()
	if items, batches, err := f.Conn.PendingItems(bound); err == nil {
		f.plan.Pending = &Pending{items, batches}
	}
	return ctx.Err()
}
