package validation

import "github.com/counterfoil/counterfoil/schemas"

// members are the members of an identifier object by their Avro names; unused places are empty.
type members [4]struct {
	name  string
	value *string
}

// sole is the one member that is given. ok is false where none is, or more than one.
func (m *members) sole() (name, value string, ok bool) {
	given := 0
	for i := range m {
		if m[i].value != nil {
			name, value = m[i].name, *m[i].value
			given++
		}
	}
	return name, value, given == 1
}

func ofAccount(i *schemas.AccountIdentifier) members {
	return members{{"id", i.ID}, {"number", i.Number}, {"name", i.Name}}
}

func ofParticipant(i *schemas.ParticipantIdentifier) members {
	return members{{"id", i.ID}, {"number", i.Number}}
}

func ofNamed(i *schemas.Identifier) members {
	return members{{"id", i.ID}, {"name", i.Name}, {"alternative_code", i.AlternativeCode}}
}

func ofProduct(i *schemas.ProductIdentifier) members {
	return members{{"id", i.ID}, {"code", i.Code}, {"alternative_code", i.AlternativeCode}}
}

func ofInvoice(i *schemas.InvoiceIdentifier) members {
	return members{{"id", i.ID}, {"number", i.Number}, {"reference_number", i.ReferenceNumber}, {"back_office_code", i.BackOfficeCode}}
}

func ofCurrency(i *schemas.CurrencyIdentifier) members {
	return members{{"id", i.ID}, {"code", i.Code}}
}

// sameID compares ids as they are looked up: without regard to case.
func sameID(a, b string) bool { return a == b || schemas.Fold(a) == schemas.Fold(b) }
