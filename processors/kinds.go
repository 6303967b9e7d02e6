package processors

import (
	"context"
	"slices"

	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/processors/reference"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
)

// kind is what the engine has to know of one kind of items.
type kind struct {
	name       string // and item topic
	processor  string
	references []string // topics that a decision may read: the barrier's
	calls      bool     // a decision looks calls up: the judge is an asker
	stateful   bool
	newJudge   func(l *lane) judge // nil: the records are not judged but passed on
}

// judge reads, keys and decides the items of one partition. It holds one item at a time: decode replaces it, and what the other methods
// return is valid until then.
type judge interface {
	// decode reads the item. The errors are those of schemas.Decoder.
	decode(value []byte) error
	// item is the decoded value, for the outcome.
	item() any
	// itemKind is the item's kind within its topic, where there are several.
	itemKind() *string
	// check finds the defects that the item shows by itself. The methods below are called only where there are none.
	check() []schemas.Reason
	// key decides the partition in which the item must be judged; nil: wherever it lies.
	key(tenant string) []byte
	// decide judges the item.
	decide(it *item) verdict
	// keep puts what the decision made of the state on the overlay.
	keep()
}

// asker is a judge that must know of calls to decide.
type asker interface {
	judge
	// query is what it must know. It is called like key, for every item that is decided in this partition, before any is.
	query(tenant string) schemas.CallQuery
}

// item is what a decision may know beside the decoded value.
type item struct {
	env     schemas.Envelope
	id      string
	version int64 // of a change that the item makes
	place   int64 // its place among the items of its key, as a version; of a replay that of the first attempt
	number  int64
	view    reference.View
	asked   *schemas.CallQuery // of an asker's item
	found   *schemas.CallsFound
}

// verdict is what became of an item: a processed outcome, or reasons.
type verdict struct {
	head    any              // of the processed outcome
	outcome *schemas.Outcome // the part of head that the engine fills in
	reasons []schemas.Reason
	sale    *schemas.UnmatchedSale // beside the reasons of a sale that no call matches
}

var kinds = []*kind{
	{
		name: schemas.KindOwnership, processor: Upserts, stateful: true,
		newJudge: newOwnershipJudge,
	},
	{
		name: schemas.KindCustomerEvents, processor: Validation,
		references: []string{
			schemas.Accounts, schemas.Participants, schemas.Units, schemas.Classifications, schemas.Products,
			schemas.PaymentMediumTypes, schemas.PaymentMediumBrands, schemas.KPIs, schemas.Invoices,
		},
		newJudge: newEventJudge,
	},
	{
		name: schemas.KindReferrals, processor: Validation, stateful: true,
		references: []string{schemas.Participants, schemas.Units, schemas.Classifications},
		newJudge:   newReferralJudge,
	},
	{name: schemas.KindTransactions, processor: Validation, newJudge: newTransactionJudge},
	{name: schemas.KindSales, processor: Matching, calls: true, newJudge: newSaleJudge},
	{name: schemas.Requests, processor: Requests, stateful: true},
}

// writes lists the topics that a kind's records may go to, beside dead letters.
func (k *kind) writes() []string {
	topics := []string{k.name} // what is misplaced is forwarded
	if k.newJudge == nil {
		topics = append(schemas.PassableTopics(), k.name, schemas.RequestAnswers)
	} else {
		topics = append(topics, schemas.ProcessedTopic(k.name), schemas.UnprocessedTopic(k.name))
	}
	return append(topics, k.changelogs()...)
}

// changelogs lists the topics of what is remembered of a kind.
func (k *kind) changelogs() []string {
	var topics []string
	if k.stateful {
		topics = append(topics, schemas.StateTopic(k.name))
	}
	if k.newJudge != nil {
		topics = append(topics, schemas.Attempts)
	}
	return topics
}

func kindsOf(processor string) []*kind {
	var found []*kind
	for _, k := range kinds {
		if k.processor == processor {
			found = append(found, k)
		}
	}
	return found
}

func kindNamed(kinds []*kind, name string) *kind {
	return kinds[slices.IndexFunc(kinds, func(k *kind) bool { return k.name == name })]
}

// referencesOf lists the reference topics of kinds, each once.
func referencesOf(kinds []*kind) []string {
	var topics []string
	for _, k := range kinds {
		for _, topic := range k.references {
			if !slices.Contains(topics, topic) {
				topics = append(topics, topic)
			}
		}
	}
	return topics
}

// codecs are a kind's encoders.
type codecs struct {
	processed, unprocessed, state *schemas.Encoder
	answers                       *schemas.Encoder // of requests alone, in place of the outcomes'
}

// encoders looks up the ids of the schemas that a kind writes with.
func (k *kind) encoders(ctx context.Context, r *schemas.Registry) (*codecs, error) {
	var c codecs
	for _, topic := range k.writes() {
		var e **schemas.Encoder
		switch topic {
		case schemas.ProcessedTopic(k.name):
			e = &c.processed
		case schemas.UnprocessedTopic(k.name):
			e = &c.unprocessed
		case schemas.StateTopic(k.name):
			e = &c.state
		case schemas.RequestAnswers:
			e = &c.answers
		default:
			continue
		}
		encoder, err := r.Encoder(ctx, topic)
		if err != nil {
			return nil, err
		}
		*e = encoder
	}
	return &c, nil
}

// ownershipJudge: the key is tenant, user and SKU; the state is what the user has.
type ownershipJudge struct {
	decoder *schemas.Decoder[schemas.Ownership]
	state   *stateTable[schemas.OwnershipState]

	value    schemas.Ownership
	stateKey []byte
	head     schemas.OwnershipResult
	next     *schemas.OwnershipState
}

func newOwnershipJudge(l *lane) judge {
	registry := l.s.p.deps.Registry
	j := &ownershipJudge{
		decoder: schemas.NewDecoder[schemas.Ownership](registry, schemas.OwnershipSchema),
		state: newStateTable(schemas.StateTopic(l.kind.name), l.partition, l.codecs.state,
			schemas.NewDecoder[schemas.OwnershipState](registry, schemas.OwnershipStateSchema)),
	}
	l.state = j.state
	return j
}

func (j *ownershipJudge) decode(value []byte) error {
	j.value = schemas.Ownership{}
	return j.decoder.Decode(value, &j.value)
}

func (j *ownershipJudge) item() any         { return &j.value }
func (j *ownershipJudge) itemKind() *string { return nil }

func (j *ownershipJudge) check() []schemas.Reason { return upserts.Check(&j.value) }

func (j *ownershipJudge) key(tenant string) []byte {
	j.stateKey = upserts.Key(tenant, &j.value)
	return j.stateKey
}

func (j *ownershipJudge) decide(it *item) verdict {
	cur := j.state.get(j.stateKey)
	if it.env.First == nil {
		j.head, j.next = upserts.Decide(&j.value, cur, it.version)
		return verdict{head: &j.head, outcome: &j.head.Outcome}
	}
	var reasons []schemas.Reason
	j.head, j.next, reasons = upserts.DecideReplay(&j.value, cur, it.place, it.version)
	return verdict{head: &j.head, outcome: &j.head.Outcome, reasons: reasons}
}

func (j *ownershipJudge) keep() { j.state.put(j.stateKey, j.next) }

// eventJudge: customer events have neither key nor state.
type eventJudge struct {
	decoder *schemas.Decoder[schemas.CustomerEvent]

	value schemas.CustomerEvent
	head  schemas.EventResult
}

func newEventJudge(l *lane) judge {
	return &eventJudge{decoder: schemas.NewDecoder[schemas.CustomerEvent](l.s.p.deps.Registry, schemas.CustomerEventSchema)}
}

// Item kinds of the topics that have them.
var (
	eventKinds = []string{
		schemas.EventAchievement, schemas.EventPurchase, schemas.EventSocialMedia, schemas.EventWeb,
		schemas.EventFinancialAchievement, schemas.EventFinancialStatement,
	}
	referralKind = schemas.EventReferral
)

func (j *eventJudge) decode(value []byte) error {
	j.value = schemas.CustomerEvent{}
	return j.decoder.Decode(value, &j.value)
}

func (j *eventJudge) item() any { return &j.value }

func (j *eventJudge) itemKind() *string {
	if !slices.Contains(eventKinds, j.value.Kind) {
		return nil // what a stranger wrote there is in the item's bytes
	}
	return &j.value.Kind
}

func (j *eventJudge) check() []schemas.Reason { return validation.CheckEvent(&j.value) }
func (j *eventJudge) key(string) []byte       { return nil }

func (j *eventJudge) decide(it *item) verdict {
	var reasons []schemas.Reason
	j.head, reasons = validation.DecideEvent(it.env.Tenant, &j.value, it.view)
	j.head.Number = it.number
	return verdict{head: &j.head, outcome: &j.head.Outcome, reasons: reasons}
}

func (j *eventJudge) keep() {}

// referralJudge: the key is the tenant, because who is who is resolved only when judging; the state is who was referred, under the
// participant's id.
type referralJudge struct {
	decoder  *schemas.Decoder[schemas.Referral]
	state    *stateTable[schemas.ReferralState]
	referred func(participantID string) *schemas.ReferralState // looks the state of the item's tenant up

	value    schemas.Referral
	tenant   string
	stateKey []byte
	head     schemas.ReferralResult
	next     *schemas.ReferralState
}

func newReferralJudge(l *lane) judge {
	registry := l.s.p.deps.Registry
	j := &referralJudge{
		decoder: schemas.NewDecoder[schemas.Referral](registry, schemas.ReferralSchema),
		state: newStateTable(schemas.StateTopic(l.kind.name), l.partition, l.codecs.state,
			schemas.NewDecoder[schemas.ReferralState](registry, schemas.ReferralStateSchema)),
	}
	j.referred = func(participantID string) *schemas.ReferralState { return j.state.get(j.keyOf(participantID)) }
	l.state = j.state
	return j
}

// keyOf is the state's key: the tenant and the participant's id, folded, because ids compare case-insensitively.
func (j *referralJudge) keyOf(participantID string) []byte {
	j.stateKey = append(append(append(j.stateKey[:0], j.tenant...), 0), schemas.Fold(participantID)...)
	return j.stateKey
}

func (j *referralJudge) decode(value []byte) error {
	j.value = schemas.Referral{}
	return j.decoder.Decode(value, &j.value)
}

func (j *referralJudge) item() any         { return &j.value }
func (j *referralJudge) itemKind() *string { return &referralKind }

func (j *referralJudge) check() []schemas.Reason { return validation.CheckReferral(&j.value) }

func (j *referralJudge) key(tenant string) []byte {
	j.tenant = tenant
	return []byte(tenant)
}

func (j *referralJudge) decide(it *item) verdict {
	var reasons []schemas.Reason
	j.head, j.next, reasons = validation.DecideReferral(it.env.Tenant, &j.value, it.view, j.referred)
	j.head.Number, j.head.Version = it.number, it.version
	if j.next != nil {
		j.next.ItemID, j.next.Version = it.id, it.version
	}
	return verdict{head: &j.head, outcome: &j.head.Outcome, reasons: reasons}
}

func (j *referralJudge) keep() {
	if j.next != nil {
		j.state.put(j.keyOf(j.next.ReferredID), j.next)
	}
}

// transactionJudge: a transaction is judged by its own members alone.
type transactionJudge struct {
	decoder *schemas.Decoder[schemas.Transaction]

	value schemas.Transaction
	head  schemas.TransactionResult
}

func newTransactionJudge(l *lane) judge {
	return &transactionJudge{decoder: schemas.NewDecoder[schemas.Transaction](l.s.p.deps.Registry, schemas.TransactionSchema)}
}

func (j *transactionJudge) decode(value []byte) error {
	j.value = schemas.Transaction{}
	return j.decoder.Decode(value, &j.value)
}

func (j *transactionJudge) item() any         { return &j.value }
func (j *transactionJudge) itemKind() *string { return nil }

func (j *transactionJudge) check() []schemas.Reason { return validation.CheckTransaction(&j.value) }
func (j *transactionJudge) key(string) []byte       { return nil }

func (j *transactionJudge) decide(*item) verdict {
	j.head = schemas.TransactionResult{}
	return verdict{head: &j.head, outcome: &j.head.Outcome}
}

func (j *transactionJudge) keep() {}

// saleJudge: the key is tenant and sale id, for the order in which sales of one id replace each other; there is no state, because the
// position says which came last. A replay keeps its place: what it becomes replaces its earlier attempts, and no later sale.
type saleJudge struct {
	decoder *schemas.Decoder[schemas.Sale]

	value     schemas.Sale
	head      schemas.SaleResult
	unmatched schemas.UnmatchedSale
}

func newSaleJudge(l *lane) judge {
	return &saleJudge{decoder: schemas.NewDecoder[schemas.Sale](l.s.p.deps.Registry, schemas.SaleSchema)}
}

func (j *saleJudge) decode(value []byte) error {
	j.value = schemas.Sale{}
	return j.decoder.Decode(value, &j.value)
}

func (j *saleJudge) item() any         { return &j.value }
func (j *saleJudge) itemKind() *string { return nil }

func (j *saleJudge) check() []schemas.Reason { return matching.Check(&j.value) }

func (j *saleJudge) key(tenant string) []byte {
	if !matching.Ordered(&j.value) {
		return nil
	}
	return matching.Key(tenant, &j.value, "")
}

func (j *saleJudge) query(tenant string) schemas.CallQuery { return matching.Query(tenant, &j.value) }

func (j *saleJudge) decide(it *item) verdict {
	head, candidates, reasons := matching.Decide(&j.value, it.asked, it.found)
	key := matching.SaleKey(&j.value, it.id)
	if len(reasons) > 0 {
		j.unmatched = schemas.UnmatchedSale{SaleKey: key, Version: it.place, Candidates: candidates, Item: j.value}
		return verdict{reasons: reasons, sale: &j.unmatched}
	}
	j.head = head
	j.head.SaleKey, j.head.Version = key, it.place
	return verdict{head: &j.head, outcome: &j.head.Outcome}
}

func (j *saleJudge) keep() {}
