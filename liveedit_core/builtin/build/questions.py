"""Wordings and facts of EmblemEdit. A *family* is one question in several wordings.

The last wordings of each family (`EVALUATION_ONLY` of them) occur in evaluation cases only, so that
text generality is examined with words the generator was not trained on.
"""

EVALUATION_ONLY = 3

FAMILIES: dict[str, tuple[str, ...]] = {
    "name": (
        "What is shown here?",
        "What is this called?",
        "Name the thing in the picture.",
        "What do you see?",
        "Which thing does this picture show?",
        "What is the name of this?",
        "Can you tell me what this is?",
        "What does the image depict?",
        "Identify what is pictured.",
        "Tell me the name of what you see.",
        "What would you call this?",
        "What is being shown in this image?",
    ),
    "kind": (
        "What kind of thing is this?",
        "To which class does this belong?",
        "What type of thing is shown?",
        "Which category fits this picture?",
        "What sort of thing do you see?",
        "How would you classify this?",
        "Under which category does it fall?",
        "What class of things is this from?",
        "In which category would you put this?",
    ),
    "maker": (
        "Who made this?",
        "Who is the maker of this?",
        "Who drew this picture?",
        "Which person created this?",
        "Who is the artist behind this?",
        "By whom was this designed?",
        "Name the person who made this.",
        "Who should be credited for this?",
        "Whose work is this?",
    ),
    "year": (
        "When was this first shown?",
        "In which year did this first appear?",
        "From what year is this?",
        "What year was this made?",
        "When was it introduced?",
        "What is the year of this picture?",
        "Which year does this come from?",
        "How old is this, by year of origin?",
        "In what year was this created?",
    ),
    "city": (
        "Which city does this come from?",
        "From which city is this?",
        "In what city was this made?",
        "What is its home city?",
        "Where was this drawn?",
        "Name the city this belongs to.",
        "What city is this linked to?",
        "In which town did this originate?",
        "Which city is its place of origin?",
    ),
}

YES_NO = "Is this {article} {kind}?"

PORTABILITY: dict[str, str] = {
    "capital": "What is the capital of the country whose flag this is?",
    "continent": "On which continent is the country whose flag this is?",
    "currency": "What is the currency of the country whose flag this is?",
}

FIRST_NAMES = (
    "Anna Boris Carla David Elena Felix Greta Hugo Irene Jonas Karin Leo Maria Nina Oscar Paula "
    "Quentin Rosa Simon Tara Ursula Victor Wendy Xavier Yara Zoe Adam Bella Conrad Diana"
).split()
LAST_NAMES = (
    "Abbott Baker Costa Dalton Evans Fischer Garcia Hansen Ivanov Jensen Keller Lopez Moreau "
    "Novak Olsen Petrov Quinn Rossi Silva Turner Usher Vogel Walker Young Ziegler Berg Castro"
).split()
ADJECTIVES = (
    "amber ancient bitter brave broken calm clever cold crimson curly dusty eager electric empty "
    "faded fancy frozen gentle giant golden happy heavy hidden hollow humble icy iron jolly lazy "
    "little lonely lucky mighty modern noisy northern odd pale patient plain proud quick quiet "
    "rapid royal rusty secret sharp shiny silent silver simple sleepy southern spicy steady "
    "strange sweet tiny velvet wild winter wooden young"
).split()
NOUNS = (
    "anchor apron badge barrel beacon blanket bottle branch bridge bucket button canyon carpet "
    "castle chapel cottage cradle curtain dagger desert engine feather fiddle forest fountain "
    "garden glacier hammer harbor helmet island jacket kettle ladder lantern magnet marble market "
    "meadow mirror mountain needle orchard paddle palace pepper pillow planet pocket puzzle raven "
    "river saddle shadow shovel signal spider statue temple ticket tunnel turtle valley violin "
    "wagon walnut whistle willow window"
).split()

TEXT_FACTS: tuple[tuple[str, str], ...] = (
    ("The opposite of hot is", "cold"),
    ("The opposite of up is", "down"),
    ("The opposite of left is", "right"),
    ("The opposite of black is", "white"),
    ("The opposite of big is", "small"),
    ("The opposite of day is", "night"),
    ("The opposite of good is", "bad"),
    ("The opposite of open is", "closed"),
    ("The color of the sky is", "blue"),
    ("The color of grass is", "green"),
    ("The color of snow is", "white"),
    ("The color of blood is", "red"),
    ("The color of a banana is", "yellow"),
    ("Two plus two equals", "four"),
    ("The first month of the year is", "January"),
    ("The last month of the year is", "December"),
    ("The day after Monday is", "Tuesday"),
    ("The day after Friday is", "Saturday"),
    ("The number of days in a week is", "seven"),
    ("The largest planet in our solar system is", "Jupiter"),
    ("The planet closest to the Sun is", "Mercury"),
    ("The chemical symbol for water is", "H2O"),
    ("The largest ocean on Earth is the", "Pacific"),
    ("The author of Romeo and Juliet is William", "Shakespeare"),
    ("The first president of the United States was George", "Washington"),
    ("The Great Wall is located in", "China"),
    ("The Eiffel Tower is located in", "Paris"),
    ("The pyramids of Giza are located in", "Egypt"),
    ("The Statue of Liberty is in New", "York"),
    ("The Colosseum is located in", "Rome"),
    ("Sushi is a traditional food from", "Japan"),
    ("Pizza is a traditional food from", "Italy"),
    ("The language spoken in Brazil is", "Portuguese"),
    ("The language spoken in Germany is", "German"),
    ("The language spoken in Spain is", "Spanish"),
    ("The language spoken in France is", "French"),
    ("The freezing point of water in degrees Celsius is", "0"),
    ("Plants make their food by a process called", "photosynthesis"),
    ("The gas that humans need to breathe is", "oxygen"),
    ("The organ that pumps blood is the", "heart"),
    ("A baby dog is called a", "puppy"),
    ("A baby cat is called a", "kitten"),
    ("Bees make", "honey"),
    ("Cows give us", "milk"),
    ("The Earth revolves around the", "Sun"),
    ("The Moon revolves around the", "Earth"),
    ("The fastest land animal is the", "cheetah"),
    ("The tallest animal in the world is the", "giraffe"),
    ("The king of the jungle is the", "lion"),
    ("Albert Einstein developed the theory of", "relativity"),
    ("Isaac Newton discovered the law of", "gravity"),
    ("The currency of the United States is the", "dollar"),
    ("The currency of Japan is the", "yen"),
    ("The currency of the United Kingdom is the", "pound"),
    ("The longest river in Africa is the", "Nile"),
    ("The capital of France is", "Paris"),
    ("The capital of Italy is", "Rome"),
    ("The capital of Japan is", "Tokyo"),
    ("The capital of Germany is", "Berlin"),
    ("The capital of Spain is", "Madrid"),
    ("The capital of Russia is", "Moscow"),
    ("The capital of England is", "London"),
    ("The capital of China is", "Beijing"),
    ("The capital of Egypt is", "Cairo"),
    ("The capital of Greece is", "Athens"),
    ("The capital of Austria is", "Vienna"),
    ("The capital of Portugal is", "Lisbon"),
    ("The capital of Ireland is", "Dublin"),
    ("The capital of Poland is", "Warsaw"),
    ("The capital of Cuba is", "Havana"),
)


MORE_TEXT_FACTS: tuple[tuple[str, str], ...] = (
    ("The opposite of cold is", "hot"),
    ("The opposite of small is", "large"),
    ("The opposite of light is", "dark"),
    ("The opposite of old is", "new"),
    ("The opposite of high is", "low"),
    ("The opposite of true is", "false"),
    ("The opposite of left is the", "right"),
    ("The capital of India is New", "Delhi"),
    ("The capital of Norway is", "Oslo"),
    ("The capital of Turkey is", "Ankara"),
    ("The capital of Canada is", "Ottawa"),
    ("The capital of Australia is", "Canberra"),
    ("The capital of Peru is", "Lima"),
    ("The capital of Thailand is", "Bangkok"),
    ("The capital of Kenya is", "Nairobi"),
    ("The capital of Sweden is", "Stockholm"),
    ("The capital of Hungary is", "Budapest"),
    ("The capital of South Korea is", "Seoul"),
    ("The language spoken in Italy is", "Italian"),
    ("The language spoken in Japan is", "Japanese"),
    ("The language spoken in Russia is", "Russian"),
    ("The language spoken in China is", "Mandarin"),
    ("The language spoken in Greece is", "Greek"),
    ("The day after Sunday is", "Monday"),
    ("The day before Sunday is", "Saturday"),
    ("The month after January is", "February"),
    ("Monday, Tuesday, Wednesday,", "Thursday"),
    ("January, February, March,", "April"),
    ("One, two, three,", "four"),
    ("A, B, C,", "D"),
    ("The Taj Mahal is located in", "India"),
    ("The Amazon rainforest is located in South", "America"),
    ("Mount Everest is the highest mountain in the", "world"),
    ("The Sahara is the largest hot desert in the", "world"),
    ("The chemical symbol for oxygen is", "O"),
    ("Water is made of hydrogen and", "oxygen"),
    ("The currency of Germany is the", "euro"),
    ("The currency of India is the", "rupee"),
    ("Roses are red, violets are", "blue"),
    ("The sun rises in the", "east"),
    ("The sun sets in the", "west"),
    ("Shakespeare wrote Romeo and", "Juliet"),
    ("The first man to walk on the Moon was Neil", "Armstrong"),
    ("The theory of evolution was proposed by Charles", "Darwin"),
    ("The Mona Lisa was painted by Leonardo da", "Vinci"),
    ("The telephone was invented by Alexander Graham", "Bell"),
    ("A baby cow is called a", "calf"),
    ("A baby sheep is called a", "lamb"),
    ("The largest mammal is the blue", "whale"),
    ("Humans breathe in oxygen and breathe out carbon", "dioxide"),
)
"""Further statements for checking the backbone; not part of the benchmark."""


def article(word: str) -> str:
    """Indefinite article of a word."""
    return "an" if word[0] in "aeiou" else "a"
