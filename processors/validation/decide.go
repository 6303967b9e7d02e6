package validation

import (
	"fmt"

	"github.com/counterfoil/counterfoil/processors/internal/defects"
	"github.com/counterfoil/counterfoil/schemas"
)

// References finds reference records of a tenant by one of their identifiers: field is the Avro name of the identifier's member, value its
// text as sent (ids are compared without regard to case). nil: there is none. Results point into the records, which must not be changed
// later, only replaced.
type References interface {
	Account(tenant, field, value string) *schemas.Account
	Participant(tenant, field, value string) *schemas.Participant
	Unit(tenant, field, value string) *schemas.Unit
	Classification(tenant, field, value string) *schemas.Classification
	Product(tenant, field, value string) *schemas.Product
	PaymentMediumType(tenant, field, value string) *schemas.PaymentMediumType
	PaymentMediumBrand(tenant, field, value string) *schemas.PaymentMediumBrand
	KPI(tenant, field, value string) *schemas.KPI
	Invoice(tenant, field, value string) *schemas.Invoice
}

// DecideEvent judges a customer event that passed [CheckEvent]. Without reasons the event is processed; the result comes without its
// Outcome part and Number. With reasons the result means nothing.
func DecideEvent(tenant string, e *schemas.CustomerEvent, refs References) (schemas.EventResult, []schemas.Reason) {
	d := decider{tenant: tenant, refs: refs}
	res := schemas.EventResult{Kind: e.Kind}
	account := d.customer(e, &res)
	res.ClassificationID = d.classification(e.Classification, e.Kind)
	unit := d.unit(e.Unit)
	if unit != nil {
		res.UnitID, res.CurrencyCode = unit.ID, unit.CurrencyCode
	}
	switch e.Kind {
	case schemas.EventPurchase:
		d.paymentMedium(e, account, &res)
		if e.Invoice != nil {
			if invoice := resolve(&d, "invoice", ofInvoice(e.Invoice), References.Invoice); invoice != nil {
				res.InvoiceID = &invoice.ID
			}
		}
		d.currency(e.IntendedCurrency, unit)
		d.lines(*e.Products, &res)
	case schemas.EventFinancialAchievement:
		d.paymentMedium(e, account, &res)
		if e.Product != nil {
			if product := d.product(e.Product); product != nil {
				res.ProductID = &product.ID
			}
		}
	case schemas.EventFinancialStatement:
		if e.Measures != nil {
			d.measures(*e.Measures, &res)
		}
	}
	return res, d.Reasons()
}

// DecideReferral judges a referral that passed [CheckReferral]. referred returns the record of who referred a participant before, by the id
// of the participant's reference record; nil: nobody did. Without reasons the referral is processed: the result comes without its Outcome
// part, Number and Version, the participant's new record without ItemID and Version. With reasons both mean nothing.
//
// The caller keeps the records by tenant and ReferredID, which is the argument that referred got: the folded id, so that a reference record
// written anew with its id in other letters is still the same participant.
func DecideReferral(tenant string, r *schemas.Referral, refs References, referred func(participantID string) *schemas.ReferralState) (schemas.ReferralResult, *schemas.ReferralState, []schemas.Reason) {
	d := decider{tenant: tenant, refs: refs}
	who := resolve(&d, "referred", ofParticipant(r.Referred), References.Participant)
	by := resolve(&d, "referred_by", ofParticipant(r.ReferredBy), References.Participant)
	res := schemas.ReferralResult{Kind: schemas.EventReferral}
	res.ClassificationID = d.classification(r.Classification, schemas.EventReferral)
	if unit := d.unit(r.Unit); unit != nil {
		res.UnitID = unit.ID
	}
	if who != nil {
		id := schemas.Fold(who.ID)
		if by != nil && id == schemas.Fold(by.ID) {
			d.Add(schemas.CodeSelfReferral, "referred", defects.Value(who.Number), "is participant "+defects.Quote(who.Number)+", who cannot have referred itself.")
		}
		if before := referred(id); before != nil {
			d.Add(schemas.CodeAlreadyReferred, "referred", defects.Value(who.Number), "is participant "+defects.Quote(who.Number)+", who was already referred; that happens once.")
		}
	}
	if reasons := d.Reasons(); reasons != nil {
		return res, nil, reasons
	}
	res.ReferredID, res.ReferredNumber = who.ID, who.Number
	res.ReferredByID, res.ReferredByNumber = by.ID, by.Number
	return res, &schemas.ReferralState{ReferredID: schemas.Fold(who.ID), ReferredByID: schemas.Fold(by.ID)}, nil
}

// decider collects the reasons against one item.
type decider struct {
	defects.List
	tenant string
	refs   References
}

// resolve finds what an identifier names; nil, and a reason, where there is none. find is a method expression of [References]: unlike a
// method value it costs nothing.
func resolve[T any](d *decider, field string, m members, find func(refs References, tenant, field, value string) *T) *T {
	name, value, _ := m.sole()
	found := find(d.refs, d.tenant, name, value)
	if found == nil {
		d.Add(schemas.CodeNotFound, field, defects.Value(value), "with "+name+" "+defects.Quote(value)+" was not found.")
	}
	return found
}

// customer resolves who the event is about and returns the account, which may be the participant's; nil where none is known.
func (d *decider) customer(e *schemas.CustomerEvent, res *schemas.EventResult) *schemas.Account {
	if e.Account != nil {
		account := resolve(d, "account", ofAccount(e.Account), References.Account)
		if account != nil {
			res.AccountID, res.AccountNumber = &account.ID, &account.Number
		}
		return account
	}
	participant := resolve(d, "participant", ofParticipant(e.Participant), References.Participant)
	if participant == nil {
		return nil
	}
	res.ParticipantID, res.ParticipantNumber = &participant.ID, &participant.Number
	if participant.AccountID == nil {
		return nil
	}
	account := d.refs.Account(d.tenant, "id", *participant.AccountID)
	if account == nil {
		// The participant's record came before its account's. That is no fault of the event, and its account is known by id at least.
		res.AccountID = participant.AccountID
		return nil
	}
	res.AccountID, res.AccountNumber = &account.ID, &account.Number
	return account
}

func (d *decider) unit(i *schemas.Identifier) *schemas.Unit {
	return resolve(d, "unit", ofNamed(i), References.Unit)
}

func (d *decider) product(i *schemas.ProductIdentifier) *schemas.Product {
	return resolve(d, "product", ofProduct(i), References.Product)
}

// classification resolves an optional classification, which must be one of the event's kind.
func (d *decider) classification(i *schemas.Identifier, kind string) *string {
	if i == nil {
		return nil
	}
	m := ofNamed(i)
	found := resolve(d, "classification", m, References.Classification)
	if found == nil {
		return nil
	}
	if found.Kind != kind {
		name, value, _ := m.sole()
		d.Add(schemas.CodeInvalid, "classification", defects.Value(value), fmt.Sprintf("with %s %s is one of the kind %s; the event's kind is %s.",
			name, defects.Quote(value), defects.Quote(found.Kind), kind))
		return nil
	}
	return &found.ID
}

// paymentMedium resolves the type and brand of a payment medium and checks that the account allows them.
func (d *decider) paymentMedium(e *schemas.CustomerEvent, account *schemas.Account, res *schemas.EventResult) {
	if e.PaymentMediumType != nil {
		m := ofNamed(e.PaymentMediumType)
		if found := resolve(d, "payment_medium_type", m, References.PaymentMediumType); found != nil {
			res.PaymentMediumTypeID = &found.ID
			if account != nil {
				d.allowed("payment_medium_type", m, found.ID, account, account.PaymentMediumTypes)
			}
		}
	}
	if e.PaymentMediumBrand != nil {
		m := ofNamed(e.PaymentMediumBrand)
		if found := resolve(d, "payment_medium_brand", m, References.PaymentMediumBrand); found != nil {
			res.PaymentMediumBrandID = &found.ID
			if account != nil {
				d.allowed("payment_medium_brand", m, found.ID, account, account.PaymentMediumBrands)
			}
		}
	}
}

// allowed checks an id against the ids that an account allows; nil: all.
func (d *decider) allowed(field string, m members, id string, account *schemas.Account, ids *[]string) {
	if ids == nil {
		return
	}
	for _, one := range *ids {
		if sameID(one, id) {
			return
		}
	}
	name, value, _ := m.sole()
	d.Add(schemas.CodeNotAllowed, field, defects.Value(value), fmt.Sprintf("with %s %s is not allowed on account %s.", name, defects.Quote(value), defects.Quote(account.Number)))
}

// currency compares the intended currency with the unit's default one.
func (d *decider) currency(intended *schemas.CurrencyIdentifier, unit *schemas.Unit) {
	if intended == nil || unit == nil {
		return
	}
	m := ofCurrency(intended)
	name, value, _ := m.sole()
	own := unit.CurrencyCode
	same := own != nil && *own == value
	if name == "id" {
		own = unit.CurrencyID
		same = own != nil && sameID(*own, value)
	}
	if same {
		return
	}
	is := "has none"
	if own != nil {
		is = "has " + defects.Quote(*own)
	}
	d.Add(schemas.CodeCurrencyMismatch, "intended_currency", defects.Value(value), fmt.Sprintf("with %s %s is not the default currency of unit %s, which %s.",
		name, defects.Quote(value), defects.Quote(unit.Name), is))
}

func (d *decider) lines(lines []schemas.PurchaseLine, res *schemas.EventResult) {
	res.LineProductIDs = make([]string, len(lines))
	for i := range lines {
		line := &lines[i]
		d.In("products", i)
		if product := d.product(line.Product); product != nil {
			res.LineProductIDs[i] = product.ID
		}
		if !line.NetAmount.Add(*line.VATAmount).Equal(*line.TotalAmount) {
			res.AmountsDiffer = true
		}
	}
	d.Out()
}

func (d *decider) measures(measures []schemas.Measure, res *schemas.EventResult) {
	res.KPIIDs, res.LineProductIDs = make([]string, len(measures)), make([]string, len(measures))
	for i := range measures {
		m := &measures[i]
		d.In("measures", i)
		if kpi := resolve(d, "kpi", ofNamed(m.KPI), References.KPI); kpi != nil {
			res.KPIIDs[i] = kpi.ID
		}
		if m.Product != nil {
			if product := d.product(m.Product); product != nil {
				res.LineProductIDs[i] = product.ID
			}
		}
	}
	d.Out()
}
