"""People who do not exist, to be found nowhere in what is made of their studies.

Every string of an `Identity` is a canary: a name, number, place or date that no report, table or
file of a finished dataset may hold. Surnames are rare and no part of a medical word.
"""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

_GIVEN_F = ("Quintina", "Hortensia", "Leocadia", "Eufrasia", "Nicanora", "Brigida", "Casilda")
_GIVEN_M = ("Eustaquio", "Leandro", "Policarpo", "Saturnino", "Telesforo", "Wenceslao", "Zacarias")
_SURNAMES = (
    *("Abascal", "Zubeldia", "Ferrandiz", "Oyarzabal", "Galdeano", "Iturralde", "Quintanilla"),
    *("Berasategui", "Urquijo", "Echevarri", "Mendizabal", "Arizmendi", "Goicoechea", "Zarzalejos"),
    *("Bustamante", "Villarroya", "Cifuentes", "Escandell", "Garrigosa", "Llorente", "Montesinos"),
    *("Olazabal", "Peñaranda", "Ruipérez", "Sagastume", "Tejedor", "Undabarrena", "Valdivieso"),
)
_HOSPITALS = ("San Cipriano", "Santa Eulalia", "Virgen del Alba", "La Ribera Alta", "Santo Tome")
_STREETS = ("Olmos", "Tejedores", "Almirante Cervera", "Jacintos", "Molino Viejo")
_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a hospital knows of one patient.

    Attributes:
        dni: Spanish identity number with its control letter.
        nhc: Number of the hospital's own history.
        phone: Nine digits in groups.
        birth: Date of birth.
        physician: Who signs the report.
    """

    given: str
    surnames: tuple[str, str]
    dni: str
    nhc: str
    phone: str
    birth: date
    address: str
    hospital: str
    physician: str

    @property
    def name(self) -> str:
        """Given name and both surnames."""
        return " ".join((self.given, *self.surnames))


def make_identity(seed: int, number: int, sex: str, age: int) -> Identity:
    """Draw the identity of a patient, the `number`-th of the archive of a seed.

    Args:
        age: Years in 2020.
    """
    rng = np.random.default_rng([seed, number, 0x1DE7])

    def one(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    digits = 10_000_000 + (number * 7_919 + int(rng.integers(1000))) % 80_000_000
    first, second, signs, signs_too = (
        _SURNAMES[int(i)] for i in rng.choice(len(_SURNAMES), 4, replace=False)
    )
    numbers = rng.integers(0, 1000, 2)
    return Identity(
        given=one(_GIVEN_F if sex == "F" else _GIVEN_M),
        surnames=(first, second),
        dni=f"{digits}{_LETTERS[digits % 23]}",
        nhc=f"{7_000_000 + number * 13 % 900_000}",
        phone=f"6{10 + number % 90} {numbers[0]:03d} {numbers[1]:03d}",
        birth=date(2020 - age, 1, 1) + timedelta(days=int(rng.integers(365))),
        address=f"calle {one(_STREETS)} {int(rng.integers(1, 99))}, 46{numbers[0]:03d} Valencia",
        hospital=f"Hospital {one(_HOSPITALS)}",
        physician=f"{one((*_GIVEN_F, *_GIVEN_M))} {signs} {signs_too}",
    )
